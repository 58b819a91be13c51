"""Small replicas of the benchmarks' folders in CoOp's layout, with photographs of letters."""

from pathlib import Path

from tests.replica import coop, fgvc_aircraft, imagenet
from tests.replica.coop import LAYOUTS
from tests.replica.photographs import SPLITS

TINY = ("backbone=tiny", 'dataset.templates=["a photo of the letter {}."]')
"""`tiny` reads letters only, so the replicas' classes are letters."""

FEW_SHOT = (*LAYOUTS, "fgvc_aircraft", "imagenet")
SHIFTS = tuple(imagenet.SHIFTS)
DATASETS = (*FEW_SHOT, *SHIFTS)

__all__ = ["DATASETS", "FEW_SHOT", "LAYOUTS", "SHIFTS", "SPLITS", "TINY", "dtd", "make"]


def make(
    dataset: str, data: Path, per_class: int = 6, size: int = 48, classes: str = "abc"
) -> Path:
    """Make `dataset` below `data`, `per_class` images per class and split; return its folder.

    ImageNet's training split gets four times as many. Its shifts have only test images, and two of
    them lack some classes, like the real ones. The other files of the real folders are made too.
    """
    if dataset in LAYOUTS:
        return coop.make(dataset, data, per_class, size, classes)
    if dataset in imagenet.SHIFTS:
        return imagenet.make_shift(dataset, data, per_class, size, classes)
    module = {"fgvc_aircraft": fgvc_aircraft, "imagenet": imagenet}[dataset]
    return module.make(data, per_class, size, classes)


def dtd(data: Path, per_class: int = 6, size: int = 48, classes: str = "abc") -> Path:
    return make("dtd", data, per_class, size, classes)
