"""What is typed after `python -m src.predict`; imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError, require_integer
from src.typed import check_model

FORMATS = (".csv", ".jsonl", ".parquet")
STDIN = "-"


@dataclass(frozen=True)
class Settings:
    """What is typed, as key=value.

    Attributes:
        model: the folder of a run, or its classifier/.
        images: a folder (looked through to any depth), a pattern such as 'photos/*.jpg', a text
            file with a path on each line, a CSV file with the column path and perhaps label, one
            image, or - for paths on the standard input. What was adapted to point clouds takes
            .npy files, points [p, 3], in place of images.
        output: where the answers go; .csv, .jsonl or .parquet.
        top: how many classes of each image are told.
        reject_below: a probability; an image whose best class has less is "none of these".
        features: true tells CLIP's image feature too (.jsonl and .parquet only).
        batch_size: images per forward pass.
    """

    model: str
    images: str
    output: str = "predictions.csv"
    top: int = 1
    reject_below: float = 0.0
    features: bool = False
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Check what can be checked without the classifier.

        Raises:
            UserError: a setting is wrong.
        """
        output = Path(self.output)
        if output.suffix not in FORMATS or output.is_dir():
            raise UserError(
                f"output={output}: give the name of a file that ends in .csv, .jsonl or .parquet."
            )
        if self.features and output.suffix == ".csv":
            raise UserError(
                f"output={output}: features=true gives each image a list of numbers, for which CSV "
                "has no place. Give a name that ends in .parquet or .jsonl."
            )
        require_integer("top", self.top, least=1)
        require_integer("batch_size", self.batch_size, least=1)
        if not 0 <= self.reject_below <= 1:
            raise UserError(f"reject_below={self.reject_below}: give a probability, from 0 to 1.")
        check_model(self.model)
        if not (self.images == STDIN or is_pattern(self.images) or Path(self.images).exists()):
            raise UserError(
                f"images={self.images} is missing: give a folder, a pattern, a list or an image."
            )


def is_pattern(images: str) -> bool:
    """Say whether a name is a pattern; a file that is there may have its signs in its own name."""
    return any(sign in images for sign in "*?[") and not Path(images).exists()
