"""FGVC-Aircraft in its own layout (Maji et al., 2013): lists of images and their variants."""

from pathlib import Path

from src.data.images import SPLITS, ImageFiles, Item
from src.data.text_files import read_lines
from src.errors import UserError

_REMEDY = "Move its folder away and run `python -m src.prepare dataset=fgvc_aircraft`."


def read(root: str) -> ImageFiles:
    """Read the variants, and `root/images_variant_{train,val,test}.txt`.

    `variants.txt` names one class per line, in the order of their labels. A line of the other
    files is an image's number and its variant: `1025794 707-320` is `images/1025794.jpg`.

    Args:
        root: the dataset's folder, the `data` of the published archive.

    Raises:
        UserError: the folder or a file is missing, or a file is malformed.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(
            f"the dataset folder {root} is missing. Set paths.data (or DATA_ROOT) to the folder "
            "that holds it, or fetch it by `python -m src.prepare dataset=fgvc_aircraft`."
        )
    names = read_lines(folder / "variants.txt", _REMEDY)
    labels = {name: label for label, name in enumerate(names)}
    if len(labels) < len(names):
        raise UserError(f"{folder / 'variants.txt'} names a variant twice. Fetch it again.")
    splits = {split: _items(folder / f"images_variant_{split}.txt", labels) for split in SPLITS}
    return ImageFiles(folder / "images", names, splits)


def _items(path: Path, labels: dict[str, int]) -> list[Item]:
    items = []
    for line in read_lines(path, _REMEDY):
        number, _, variant = line.partition(" ")
        if not number.isdigit() or variant not in labels:
            raise UserError(
                f"{path} is malformed: {line!r} is not an image's number and a variant of "
                "variants.txt. Fetch it again."
            )
        items.append(Item(f"{number}.jpg", labels[variant]))
    return items
