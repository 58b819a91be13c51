"""ImageNet and four shifts of it, in CoOp's layout (Zhou et al., IJCV 2022; its DATASETS.md).

A class is identified by its number in WordNet (wnid). `classnames.txt` has a line for each class,
`n01440764 tench`, in the order of the wnids; names may repeat. Labels count the classes that a
dataset has in the same order.
"""

import os
import random
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from src.data.images import ImageFiles, Item
from src.data.text_files import listing, read_file
from src.errors import UserError

CLASS_NAMES = "classnames.txt"
MOST_HELD_OUT = 50
"""How many training images of a class become validation images, if it has enough."""

_EXTENSIONS = (".jpeg", ".jpg", ".png")
_WNID = re.compile(r"n\d{8}")


def read(root: str) -> ImageFiles:
    """Read ImageNet (Russakovsky et al., IJCV 2015): `root/images/{train,val}/<wnid>/*`.

    The official validation images are the test split. A fifth of each class's training images, 50
    at most, is held out as validation split, and the rest is the training split. Which images are
    held out depends on the class and the names of its training images, on nothing else.

    Args:
        root: the dataset's folder, which also holds `classnames.txt`.

    Returns:
        Items sorted by label, then by name. Where there is no folder `train`, the training and
        validation splits are empty: zero-shot methods need neither.

    Raises:
        UserError: something is missing or malformed; the message names the folder or file.
    """
    names = _class_names(Path(root) / CLASS_NAMES)
    images = Path(root) / "images"
    test = _by_class(images / "val", names)
    train = _by_class(images / "train", names) if (images / "train").is_dir() else {}
    if train and train.keys() != test.keys():
        different = sorted(train.keys() ^ test.keys())
        raise UserError(
            f"{images} has {listing(different)} in only one of train and val: both must have "
            "the same classes. Complete them, or remove the classes that you do not want."
        )
    held_out = {wnid: _hold_out(wnid, files) for wnid, files in train.items()}
    rest = {wnid: _without(files, {*held_out[wnid]}) for wnid, files in train.items()}
    splits = {
        "train": _items(rest, "train/"),
        "val": _items(held_out, "train/"),
        "test": _items(test, "val/"),
    }
    return ImageFiles(images, [names[wnid] for wnid in test], splits, list(test))


def read_shift(root: str, images: str, class_names: str) -> ImageFiles:
    """Read the test images `root/images/<wnid>/*`.

    So come ImageNet-Sketch (Wang et al., NeurIPS 2019) and, with 200 classes each, ImageNet-A
    (Hendrycks et al., CVPR 2021) and ImageNet-R (Hendrycks et al., ICCV 2021). The classes are
    those that have a folder, and no others compete with them.

    Args:
        root: the dataset's folder, which may hold a `classnames.txt` of its own.
        images: the folder below `root` that holds the classes.
        class_names: ImageNet's `classnames.txt`, because the dataset has none of its own.

    Raises:
        UserError: something is missing or malformed; the message names the folder or file.
    """
    names = _class_names(Path(root) / CLASS_NAMES, Path(class_names))
    test = _by_class(Path(root) / images, names)
    return _test_only(Path(root) / images, {wnid: names[wnid] for wnid in test}, _items(test))


def read_numbered_shift(root: str, images: str, class_names: str) -> ImageFiles:
    """Read the test images `root/images/<number>/*` of ImageNetV2 (Recht et al., ICML 2019).

    Args:
        root: the dataset's folder, which may hold a `classnames.txt` of its own.
        images: the folder below `root` that holds a folder for each class, called by its label.
        class_names: ImageNet's `classnames.txt`, because the dataset has none of its own.

    Raises:
        UserError: something is missing or malformed; the message names the folder or file.
    """
    names = _class_names(Path(root) / CLASS_NAMES, Path(class_names))
    top = Path(root) / images
    found = _by_folder(top)
    numbers = [str(label) for label in range(len(names))]
    if different := sorted(found.keys() ^ {*numbers}):
        raise UserError(
            f"{top} must hold the folders 0 to {len(names) - 1}, one for each class of "
            f"{CLASS_NAMES}, and differs in {listing(different)}. Fetch it again."
        )
    return _test_only(top, names, _items({number: found[number] for number in numbers}))


def _test_only(top: Path, names: Mapping[str, str], test: Sequence[Item]) -> ImageFiles:
    return ImageFiles(
        top, list(names.values()), {"train": [], "val": [], "test": test}, list(names)
    )


def _items(by_class: Mapping[str, Sequence[str]], prefix: str = "") -> list[Item]:
    return [
        Item(f"{prefix}{folder}/{file}", label)
        for label, (folder, files) in enumerate(by_class.items())
        for file in files
    ]


def _hold_out(wnid: str, files: Sequence[str]) -> list[str]:
    """Draw a fifth of a class's sorted `files`, but at least one if there are several."""
    count = min(MOST_HELD_OUT, max(1, len(files) // 5), len(files) - 1)
    return sorted(random.Random(wnid).sample(files, count))


def _without(files: Sequence[str], others: Collection[str]) -> list[str]:
    return [file for file in files if file not in others]


def _by_class(top: Path, names: Mapping[str, str]) -> dict[str, list[str]]:
    """List the images of each class by wnid; images and classes are sorted."""
    found = _by_folder(top)
    if unknown := [folder for folder in found if folder not in names]:
        raise UserError(
            f"{top} has folders that are no classes of {CLASS_NAMES}: {listing(unknown)}. "
            "Remove them, or complete that file."
        )
    return found


def _by_folder(top: Path) -> dict[str, list[str]]:
    """List the images in each folder of `top`; both in order of their names.

    There may be 1.3 million: one look at each folder, none at a file.
    """
    if not top.is_dir():
        raise UserError(
            f"the folder {top} is missing. Set paths.data (or DATA_ROOT) to the folder that holds "
            "the dataset; `python -m src.prepare dataset=...` fetches it, or says where it is."
        )
    with os.scandir(top) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    found = {folder: _images(top / folder) for folder in folders if not folder.startswith(".")}
    if not found:
        raise UserError(f"{top} must hold a folder for each class, and has none: sort the images.")
    if empty := [str(top / folder) for folder, files in found.items() if not files]:
        raise UserError(
            f"there is no image ({', '.join(_EXTENSIONS)}) in {listing(empty)}. Complete the "
            "dataset, or remove the folders."
        )
    return found


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    return [name for name in names if name.lower().endswith(_EXTENSIONS) and name[0] != "."]


def _class_names(*places: Path) -> dict[str, str]:
    """Read class names by wnid from the first of `places` that exists."""
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(
            f"the file {' or '.join(map(str, places))} is missing: "
            "`python -m src.prepare dataset=imagenet` says where to get it."
        )
    names: dict[str, str] = {}
    for number, line in enumerate(read_file(path, "Fetch it again.").splitlines(), start=1):
        wnid, _, name = line.strip().partition(" ")
        if not wnid:
            continue
        if not (_WNID.fullmatch(wnid) and name.strip()):
            raise _malformed(path, number, f"{line!r} is not a wnid and a class name")
        before = next(reversed(names), "")
        if wnid <= before:
            raise _malformed(path, number, f"{wnid} does not follow {before} in order")
        names[wnid] = name.strip()
    if not names:
        raise UserError(f"the file {path} is empty. Fetch it again.")
    return names


def _malformed(path: Path, number: int, why: str) -> UserError:
    return UserError(f"{path}, line {number}: {why}. Fetch the file again.")
