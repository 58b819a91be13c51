"""What is typed after `python -m src.export`; imports no torch."""

import difflib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from src.errors import UserError

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
        if not Path(self.model).is_dir():
            raise UserError(
                f"model={self.model} is no folder: give that of a run that ended, or its "
                "classifier/."
            )
        if self.images and not Path(self.images).is_dir():
            raise UserError(f"images={self.images} is no folder: give one, or leave images= out.")
        missing = [name for name in EXTRA if find_spec(name) is None]
        if self.format == ONNX and missing:
            raise UserError(
                f'format=onnx needs {", ".join(missing)}: pip install "calipers[export]"'
            )


def read(arguments: Sequence[str]) -> Settings:
    """Read the settings of a command line; text is taken as it stands.

    Raises:
        UserError: there is no such setting, one is missing, or a value is wrong.
    """
    known = {one.name: one for one in fields(Settings)}
    values: dict[str, str] = {}
    for argument in arguments:
        name, sign, text = argument.partition("=")
        if name not in known or not sign:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}=...?" if near else ""
            raise UserError(
                f"there is no setting {argument!r}.{hint} Settings are typed as key=value, and "
                "`--help` lists them."
            )
        values[name] = text
    for name, one in known.items():
        if one.default is MISSING and not values.get(name):
            raise UserError(f"{name}=... is missing: `--help` says what it takes.")
    return Settings(**values)
