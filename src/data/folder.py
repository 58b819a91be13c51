"""The user's own images: one folder for each class, or a CSV or Parquet file that lists them."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from src.data.class_names import check_names, read_names
from src.data.dividing import LabelledFile, by_class, divide
from src.data.images import FORMATS, SPLITS, ImageFiles, Item
from src.data.listed import read_list
from src.data.text_files import at_most, listing
from src.errors import UserError, require_integer

ENDINGS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".pbm", ".pgm", ".pnm", ".ppm"), "PPM"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".jp2", ".j2k"), "JPEG2000"),
    ".avif": "AVIF", ".bmp": "BMP", ".gif": "GIF", ".png": "PNG", ".webp": "WEBP",
}  # fmt: skip
EXTENSIONS = {ending for ending, of_format in ENDINGS.items() if of_format in FORMATS}
"""By what the name of a file must end, in lower case, for it to count as an image."""
LEAST = 3
"""Images that a class needs to be divided: one for each split."""


log = logging.getLogger(__name__)


def read(
    path: str | None,
    csv_file: str | None,
    class_names: str | None,
    split_seed: int,
    depth: int = 1,
) -> ImageFiles:
    """Read `path/<class>/*`, `path/{train,val,test}/<class>/*`, or what `csv_file` lists.

    Images that come undivided are divided class by class into 50 % train, 20 % val and 30 % test.
    Where there are train but no val images, 20 % of each class's train images become val, one at
    least unless it is the only one. The draws depend on `split_seed`, on the class and on the
    names of its images, not on the order of the files nor on the other classes.

    Args:
        path: the images' folder. It is divided if it holds a folder `test`.
        csv_file: a CSV or Parquet file with the columns `path` (below `path`, or below the file's
            own folder), `label` and, for images that are divided already, `split`.
        class_names: a JSON object from label (the folder's name) to class name, or a text file
            with a label and its class name on each line; without it, labels are class names.
        split_seed: decides which images are drawn for which split.
        depth: how many folders below `path`, or below a split's folder, the folders are that hold
            the images. These are the classes, and no two may have the same name; the names of the
            folders above them are ignored.

    Returns:
        Classes and items sorted by label, then by name; `train` or `val` may be empty.

    Raises:
        UserError: something is missing or malformed; the message names the folder, file or row.
    """
    require_integer("dataset.split_seed", split_seed, least=0)
    require_integer("dataset.depth", depth, least=1)
    if csv_file is not None:
        if depth != 1:
            raise UserError("dataset.depth says where folders lie, and dataset.csv lists files.")
        table = Path(str(csv_file))  # On the command line, 2024 is a number.
        root = table.parent if path is None else Path(str(path))
        images = read_list(table, root)
    elif path is not None:
        root = Path(str(path))
        images = _found(root, depth)
    else:
        raise UserError(
            "where are your images? Give `dataset.path=FOLDER`, with one folder for each class, "
            "or `dataset.csv=FILE`."
        )
    origin = csv_file or path
    few = [
        f"{label} ({len(some)})"
        for label, some in by_class(image for image in sorted(images) if image.split is None)
        if len(some) < LEAST
    ]
    if few:
        raise UserError(
            f"{origin} has too few images of {listing(few)} to divide into train, val and "
            f"test: a class needs {LEAST} or more. Add images, or divide them yourself."
        )
    splits = divide(sorted(images), split_seed)
    if not splits["test"]:
        raise UserError(f"{origin} has no test images: there is nothing to measure on.")
    labels = sorted({image.label for image in images})
    number = {label: index for index, label in enumerate(labels)}
    names = labels if class_names is None else read_names(labels, Path(str(class_names)))
    if len(labels) < 2:
        raise UserError(f"{origin} has one class, {labels[0]!r}: there must be two or more.")
    check_names(names)
    return ImageFiles(
        root,
        names,
        {
            split: [Item(image.key, number[image.label]) for image in sorted(some)]
            for split, some in splits.items()
        },
        notes=_drawn(images, split_seed),
    )


def _drawn(images: Sequence[LabelledFile], seed: int) -> list[str]:
    """Say which splits were drawn, and how."""
    given = {image.split for image in images}
    if None in given:
        return [f"train, val, test: 50, 20, 30 % of each class, dataset.split_seed={seed}"]
    if "train" in given and "val" not in given:
        return [f"val: 20 % of each class of train, dataset.split_seed={seed}"]
    return []


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
    found = sorted(_found(root, depth=1))
    if found and found[0].split is not None:
        raise UserError(f"{root} is divided into splits: give one of them, as {root / 'train'}.")
    names = sorted({image.label for image in found})
    number = {name: index for index, name in enumerate(names)}
    return Labelled(
        [root / image.key for image in found], [number[image.label] for image in found], names
    )


@dataclass
class _Walk:
    """What was found on the way to the class folders, `depth` levels below the top.

    Attributes:
        classes: the images of each class folder, all by their paths below `root`.
        split_of: the split that each class folder lies in.
        outside: images above the class folders.
        others: files in class folders that are no images.
        nested: folders in class folders.
    """

    root: Path
    depth: int
    classes: dict[str, list[str]] = field(default_factory=dict)
    split_of: dict[str, str | None] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)

    def visit(self, below: str, level: int, split: str | None) -> None:
        """Look into the folder `below` the root, `level` levels above the class folders."""
        images, others = self.outside, []
        if level == 0:
            self.split_of[below] = split
            images, others = self.classes.setdefault(below, []), self.others
        for entry in _visible(self.root / below):
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir():
                if level:
                    self.visit(path, level - 1, split)
                else:
                    self.nested.append(path)
            elif _ending(entry.name) in EXTENSIONS and entry.is_file():
                images.append(path)
            else:
                others.append(path)


def _found(root: Path, depth: int) -> list[LabelledFile]:
    walk = _walk(root, depth)
    filled = {_name(folder) for folder, images in walk.classes.items() if images}
    empty = [str(root / folder) for folder in walk.classes if _name(folder) not in filled]
    if empty or not filled:
        raise UserError(
            f"there is no image ({', '.join(sorted(EXTENSIONS))}) in "
            f"{listing(empty) or f'any class folder of {root}'}"
            f"{f', but {_by_ending(walk.others)}' if walk.others else ''}. dataset.path must hold "
            "<class>/<image>, or {train,val,test}/<class>/<image>; remove folders that are no "
            f"classes{', or say by dataset.depth how deep the classes lie' * bool(walk.nested)}."
        )
    if walk.nested:
        raise UserError(
            "images of a class must lie in its folder itself, and there are folders in it: "
            f"{_paths(root, walk.nested)}. If those are the classes, say so by dataset.depth="
            f"{depth + 1}; if not, move their images up, or list them by dataset.csv."
        )
    if depth > 1 and walk.outside:
        raise UserError(
            f"dataset.depth={depth}, but these images do not lie in a folder {depth} levels down: "
            f"{_paths(root, walk.outside)}. Move them into one, or list all by dataset.csv."
        )
    _check_distinct(walk)
    _tell_what_is_left_out(walk)
    return [
        LabelledFile(_name(folder), image, walk.split_of[folder])
        for folder, images in walk.classes.items()
        for image in images
    ]


def _walk(root: Path, depth: int) -> _Walk:
    if not root.is_dir():
        raise UserError(f"the folder {root} is missing: set dataset.path to that of your images.")
    walk = _Walk(root, depth)
    try:
        if not (root / "test").is_dir():
            walk.visit("", depth, None)
            return walk
        folders = [entry.name for entry in _visible(root) if entry.is_dir()]
        if others := [str(root / name) for name in folders if name not in SPLITS]:
            raise UserError(
                f"{root} holds the split test, and {listing(others)} beside it: "
                f"call splits {', '.join(SPLITS)}, and move away what is none."
            )
        for split in folders:
            walk.visit(split, depth, split)
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}. Mend it, or move it away."
        ) from None
    return walk


def _visible(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """List a folder; whether an entry is a file is known without a look at each."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]


def _paths(root: Path, paths: Sequence[str]) -> str:
    return listing([str(root / path) for path in sorted(paths)])


def _check_distinct(walk: _Walk) -> None:
    """Refuse two folders of one name in the same split, as `cats/other` and `dogs/other`.

    Raises:
        UserError: they may be one class or two.
    """
    first: dict[tuple[str, str | None], str] = {}
    for folder, split in walk.split_of.items():
        other = first.setdefault((_name(folder), split), folder)
        if other != folder:
            raise UserError(
                f"two class folders have the same name: {_paths(walk.root, [other, folder])}. "
                "Rename one, or list the images by dataset.csv."
            )


def _tell_what_is_left_out(walk: _Walk) -> None:
    parts = []
    if walk.others:
        parts.append(
            f"{_by_ending(walk.others)}, as {min(walk.others)!r} (read are "
            f"{', '.join(sorted(EXTENSIONS))}: convert others)"
        )
    if walk.outside:
        parts.append(
            f"{len(walk.outside):,} outside of the class folders, as {min(walk.outside)!r}"
        )
    if parts:
        log.warning("files left out of %s: %s.", walk.root, ", and ".join(parts))


def _by_ending(paths: Sequence[str]) -> str:
    """Count files by their endings: "12 .heic, 1 .txt"."""
    often = Counter(_ending(path) or "without ending" for path in paths)
    return at_most(f"{count:,} {ending}" for ending, count in often.most_common())
