"""The user's own images: one folder for each class, or a CSV file that lists them."""

import csv
import io
import logging
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from src.data.images import SPLITS, ImageFiles, Item
from src.data.text_files import listing, read_json_object, read_text, readable
from src.errors import UserError, require_integer

EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
LEAST = 3
"""Images that a class needs to be divided: one for each split."""


log = logging.getLogger(__name__)


class _Image(NamedTuple):
    label: str
    key: str
    split: str | None


def read(
    path: str | None, csv_file: str | None, class_names: str | None, split_seed: int
) -> ImageFiles:
    """Read `path/<class>/*`, `path/{train,val,test}/<class>/*`, or what `csv_file` lists.

    Images that come undivided are divided class by class into 50 % train, 20 % val and 30 % test.
    Where there are train but no val images, 20 % of each class's train images become val, one at
    least unless it is the only one. The draws depend on `split_seed`, on the class and on the
    names of its images, not on the order of the files nor on the other classes.

    Args:
        path: the images' folder. It is divided if it holds a folder `test`.
        csv_file: has the columns `path` (below `path`, or below the file's own folder), `label`
            and, for images that are divided already, `split`.
        class_names: a JSON object from label (the folder's name) to class name, or a text file
            with a label and its class name on each line; without it, labels are class names.
        split_seed: decides which images are drawn for which split.

    Returns:
        Classes and items sorted by label, then by name; `train` or `val` may be empty.

    Raises:
        UserError: something is missing or malformed; the message names the folder, file or row.
    """
    require_integer("dataset.split_seed", split_seed, least=0)
    if csv_file is not None:
        table = Path(str(csv_file))  # On the command line, 2024 is a number.
        root = table.parent if path is None else Path(str(path))
        images = _listed(table, root)
    elif path is not None:
        root = Path(str(path))
        images = _found(root)
    else:
        raise UserError(
            "where are your images? Give `dataset.path=FOLDER`, with one folder for each class, "
            "or `dataset.csv=FILE`."
        )
    origin = csv_file or path
    few = [
        f"{label} ({len(some)})"
        for label, some in _by_class(image for image in sorted(images) if image.split is None)
        if len(some) < LEAST
    ]
    if few:
        raise UserError(
            f"{origin} has too few images of {listing(few)} to divide into train, val and "
            f"test: a class needs {LEAST} or more. Add images, or divide them yourself."
        )
    splits = _divide(sorted(images), split_seed)
    if not splits["test"]:
        raise UserError(f"{origin} has no test images: there is nothing to measure on.")
    labels = sorted({image.label for image in images})
    number = {label: index for index, label in enumerate(labels)}
    names = labels if class_names is None else _named(labels, Path(str(class_names)))
    if len(labels) < 2:
        raise UserError(f"{origin} has one class, {labels[0]!r}: there must be two or more.")
    _check_names(names)
    return ImageFiles(
        root,
        names,
        {
            split: [Item(image.key, number[image.label]) for image in sorted(some)]
            for split, some in splits.items()
        },
    )


class Labelled(NamedTuple):
    """Images with their classes.

    Attributes:
        images: the paths.
        labels: of each image, its position in `class_names`.
        class_names: sorted.
    """

    images: list[Path]
    labels: list[int]
    class_names: list[str]


def labelled(path: str | Path) -> Labelled:
    """List the images `path/<class>/*`, sorted by class and name.

    Raises:
        UserError: the folder is missing, is divided into splits, or a class has no image.
    """
    root = Path(path)
    found = sorted(_found(root))
    if found and found[0].split is not None:
        raise UserError(f"{root} is divided into splits: give one of them, as {root / 'train'}.")
    names = sorted({image.label for image in found})
    return Labelled(
        [root / image.key for image in found],
        [names.index(image.label) for image in found],
        names,
    )


def _found(root: Path) -> list[_Image]:
    if not root.is_dir():
        raise UserError(f"the folder {root} is missing: set dataset.path to that of your images.")
    tops: dict[Path, str | None] = {root: None}
    if (root / "test").is_dir():
        tops = {root / split: split for split in SPLITS if (root / split).is_dir()}
        others = [str(each) for each in _visible(root) if each.is_dir() and each not in tops]
        if others:
            raise UserError(
                f"{root} holds the split test, and {listing(others)} beside it: "
                f"call splits {', '.join(SPLITS)}, and move away what is none."
            )
    folders = [folder for top in tops for folder in _visible(top) if folder.is_dir()]
    images = [
        _Image(folder.name, file.relative_to(root).as_posix(), tops[folder.parent])
        for folder in folders
        for file in _visible(folder)
        if file.suffix.lower() in EXTENSIONS and file.is_file()
    ]
    taken = {image.key for image in images}
    files = (each for folder in folders for each in _visible(folder) if each.is_file())
    left_out = sorted({str(file.relative_to(root)) for file in files} - taken)
    if left_out:
        log.warning("no images by their names, and left out: %s", listing(left_out))
    empty = {folder.name: folder for folder in folders}
    for image in images:
        empty.pop(image.label, None)
    if empty or not images:
        raise UserError(
            f"there is no image ({', '.join(sorted(EXTENSIONS))}) in "
            f"{listing([*map(str, empty.values())]) or f'any class folder of {root}'}. "
            "dataset.path must hold <class>/<image>, or {train,val,test}/<class>/<image>; remove "
            "folders that are no classes."
        )
    if nested := [str(each) for one in folders for each in _visible(one) if each.is_dir()]:
        raise UserError(
            "images of a class must lie in its folder itself, and there are folders in it: "
            f"{listing(nested)}. Move their images up, or list them by dataset.csv."
        )
    return images


def _visible(folder: Path) -> Iterable[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _listed(table: Path, root: Path) -> list[_Image]:
    reader = csv.DictReader(io.StringIO(read_text(table, "dataset.csv")), strict=True)
    images: dict[str, _Image] = {}
    try:
        header = reader.fieldnames or []
        if not {"path", "label"} <= set(header):
            raise UserError(
                f"{table} must begin with the header path,label or path,label,split, not with "
                f"{','.join(header)!r}."
            )
        for row in reader:
            where = f"{table}, line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"{where} does not have the header's {len(header)} fields: quote a field that "
                    "contains a comma."
                )
            image = _Image(
                row["label"].strip(),
                _below(root, PurePosixPath(row["path"].strip())),
                row["split"].strip() if "split" in row else None,
            )
            _check(image, root, where)
            if image.key in images:
                raise UserError(f"{where} lists {image.key} once more: remove one of the rows.")
            images[image.key] = image
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}. Mend the CSV file.") from None
    return list(images.values())


def _below(root: Path, path: PurePosixPath) -> str:
    """Make a path relative to `root`, if it lies below it."""
    top = root.absolute()
    return str(path.relative_to(top) if path.is_relative_to(top) else path)


def _check(image: _Image, root: Path, where: str) -> None:
    path = PurePosixPath(image.key)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{where}: the path {image.key} does not lead into {root}. Set dataset.path to a "
            "folder that holds all images."
        )
    if not image.label:
        raise UserError(f"{where} has no label: name the class of {image.key}.")
    if image.split is not None and image.split not in SPLITS:
        raise UserError(f"{where}: the split {image.split!r} is none of {', '.join(SPLITS)}.")
    if not (root / path).is_file():
        raise UserError(
            f"{where}: the image {root / path} is missing. Put it there, remove the row, or set "
            "dataset.path to the folder that the paths start from."
        )


def _divide(images: Sequence[_Image], seed: int) -> dict[str, list[_Image]]:
    """Draw a split for each of the sorted `images` that does not name one."""
    splits = {split: [image for image in images if image.split == split] for split in SPLITS}
    for label, some in _by_class(image for image in images if image.split is None):
        drawn = _shuffled(some, label, seed)
        train, val = len(some) // 2, max(1, len(some) // 5)
        splits["train"] += drawn[:train]
        splits["val"] += drawn[train : train + val]
        splits["test"] += drawn[train + val :]
    if not splits["val"]:
        of_class, splits["train"] = _by_class(splits["train"]), []
        for label, some in of_class:
            drawn = _shuffled(some, label, seed)
            val = min(max(1, len(some) // 5), len(some) - 1)
            splits["val"] += drawn[:val]
            splits["train"] += drawn[val:]
    return splits


def _by_class(images: Iterable[_Image]) -> list[tuple[str, list[_Image]]]:
    return [(label, list(some)) for label, some in groupby(images, key=lambda image: image.label)]


def _shuffled(images: Sequence[_Image], label: str, seed: int) -> list[_Image]:
    return random.Random(f"{seed} {label}").sample(images, len(images))


def _check_names(names: Sequence[str]) -> None:
    """Check what becomes of the class names in prompts.

    Raises:
        UserError: two are equal there; one of them could never be predicted.
    """
    often = Counter(map(readable, names))
    if alike := [name for name in names if often[readable(name)] > 1]:
        raise UserError(
            f"several classes have the same name in a prompt: {listing(alike)}. Rename or join "
            "them, or name each by dataset.class_names=FILE."
        )
    if numbers := [name for name in names if re.fullmatch(r"n\d{8}", name)]:
        log.warning(
            "%s: a prompt such as 'a photo of a %s.' says nothing to CLIP. Give the names by "
            "dataset.class_names=FILE.",
            listing(numbers),
            numbers[0],
        )


def _named(labels: Sequence[str], path: Path) -> list[str]:
    key = "dataset.class_names"
    if path.suffix.lower() == ".json":
        names = read_json_object(path, key)
    else:
        lines = [line.split(maxsplit=1) for line in read_text(path, key).splitlines()]
        names = {first: "".join(rest).strip() for first, *rest in filter(None, lines)}
    missing = [label for label in labels if label not in names]
    if missing:
        raise UserError(
            f"{path} has no class name for {listing(missing, names)}: {key} must name every class."
        )
    for label in labels:
        if not isinstance(names[label], str) or not names[label].strip():
            raise UserError(f"{path} gives {label!r} no class name: write one behind it.")
    return [names[label] for label in labels]
