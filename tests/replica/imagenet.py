"""ImageNet and its shifts."""

from pathlib import Path
from typing import NamedTuple

from tests.replica.photographs import photograph, write


class Shift(NamedTuple):
    """Where a shift of ImageNet keeps its images; keys are formatted as in CoOp's layouts."""

    folder: str
    images: str
    key: str
    lacks: int = 0  # number of missing classes: the first in classnames.txt


SHIFTS = {
    "imagenet_v2": Shift(
        "imagenetv2", "imagenetv2-matched-frequency-format-val", "{label}/{number:040x}.jpeg"
    ),
    "imagenet_sketch": Shift("imagenet-sketch", "images", "{wnid}/sketch_{number}.JPEG"),
    "imagenet_a": Shift(
        "imagenet-adversarial",
        "imagenet-a",
        "{wnid}/0.{number:06d}_digital clock _ digital clock_0.865662.jpg",
        lacks=1,
    ),
    "imagenet_r": Shift("imagenet-rendition", "imagenet-r", "{wnid}/art_{number}.jpg", lacks=1),
}


def make(data: Path, per_class: int, size: int, classes: str) -> Path:
    """Make ImageNet; a fifth of the training images is held out as the validation split."""
    root = data / "imagenet"
    for label, name in enumerate(classes):
        wnid = _wnid(label)
        for number in range(5 * per_class):
            key = f"images/train/{wnid}/{wnid}_{number}.JPEG"
            photograph(root / key, name, number, size)
        for number in range(per_class):
            image = 1000 + number * len(classes) + label
            key = f"images/val/{wnid}/ILSVRC2012_val_{image:08d}.JPEG"
            photograph(root / key, name, image, size)
    write(root / "classnames.txt", *_lines(classes))
    return root


def make_shift(shift: str, data: Path, per_class: int, size: int, classes: str) -> Path:
    """Make one shift, with its own copy of `classnames.txt`, as CoOp requires."""
    layout = SHIFTS[shift]
    root = data / layout.folder
    for label, name in [*enumerate(classes)][layout.lacks :]:
        for number in range(per_class):
            key = layout.key.format(wnid=_wnid(label), label=label, number=number)
            photograph(root / layout.images / key, name, number, size)
    if layout.lacks:
        write(root / layout.images / "README.txt", "There are 200 classes we consider.")
    write(root / "classnames.txt", *_lines(classes))
    return root


def _wnid(label: int) -> str:
    return f"n{label + 1:08d}"


def _lines(classes: str) -> list[str]:
    return [f"{_wnid(label)} {name}" for label, name in enumerate(classes)]
