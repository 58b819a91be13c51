"""What is typed after `python -m src.export`; imports no torch."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from src.errors import UserError
from src.typed import check_model

ONNX, TORCH = "onnx", "torch"
SUFFIXES = {ONNX: ".onnx", TORCH: ".pt2"}
PRECISIONS = ("float32", "float16", "bfloat16")
EXTRA = ("onnx", "onnxruntime", "onnxscript")
"""The packages of the extra `export`, which onnx needs."""


@dataclass(frozen=True)
class Settings:
    """What is typed, as key=value.

    Attributes:
        model: the folder of a run, or its classifier/.
        output: the file, .onnx or .pt2. NAME_example.py beside it shows how it is used.
        format: onnx (.onnx), or torch (.pt2), a program of torch.export.
        precision: float32, float16 or bfloat16, of the image tower. With onnx its weights are
            stored in it, half as large, and computed with in float32; with torch it computes in it.
        images: a folder of images (for point clouds, of .npy files) on which the file is compared
            with the original; without it, random ones.
    """

    model: str
    output: str
    format: str = ONNX
    precision: str = "float32"
    images: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked without the classifier.

        Raises:
            UserError: a setting is wrong, or a package is missing.
        """
        for name, known in (("format", tuple(SUFFIXES)), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name}={getattr(self, name)}: give one of {', '.join(known)}.")
        output, suffix = Path(self.output), SUFFIXES[self.format]
        if output.suffix != suffix or output.is_dir():
            raise UserError(
                f"output={output}: with format={self.format}, give the name of a file that ends in "
                f"{suffix}."
            )
        check_model(self.model)
        if self.images and not Path(self.images).is_dir():
            raise UserError(f"images={self.images} is no folder: give one, or leave images= out.")
        missing = [name for name in EXTRA if find_spec(name) is None]
        if self.format == ONNX and missing:
            raise UserError(
                f'format=onnx needs {", ".join(missing)}: pip install "calipers[export]"'
            )
