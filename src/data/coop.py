"""Datasets described by CoOp's split files (Zhou et al., IJCV 2022; its DATASETS.md)."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from src.data.images import SPLITS, ImageFiles, Item
from src.data.text_files import read_json
from src.errors import UserError


def read(root: str, images: str, split_file: str) -> ImageFiles:
    """Read `root/split_file`: `{"train" | "val" | "test": [[path, label, class name], ...]}`.

    Args:
        root: the dataset's folder.
        images: the folder below `root` that the split's paths start from.
        split_file: the split's file name below `root`.

    Raises:
        UserError: the folder or the split file is missing, or the split file is malformed.
    """
    path = Path(root) / split_file
    if not Path(root).is_dir():
        raise UserError(
            f"the dataset folder {root} is missing. Set paths.data (or DATA_ROOT) to the folder "
            "that holds it, or fetch it by `python -m src.prepare dataset=...`."
        )
    content = read_json(path, "Fetch the split file by `python -m src.prepare dataset=...`.")
    return ImageFiles(Path(root) / images, *_parse(content, path))


def _parse(content: Any, path: Path) -> tuple[Sequence[str], dict[str, list[Item]]]:
    names: dict[int, str] = {}
    splits: dict[str, list[Item]] = {}
    for split in SPLITS:
        rows = content.get(split) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not rows:
            raise _malformed(path, f"it holds no list called {split!r}")
        splits[split] = []
        for number, row in enumerate(rows):
            where = f"{split}[{number}]"
            match row:
                case [str(key), int(label), str(name)] if label >= 0:
                    pass
                case _:
                    raise _malformed(path, f"{where} is not [path, label, class name]: {row!r}")
            if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
                raise _malformed(path, f"{where} leaves the image folder: {key}")
            if names.setdefault(label, name) != name:
                raise _malformed(
                    path, f"{where} calls class {label} {name!r}, before it was {names[label]!r}"
                )
            splits[split].append(Item(key, label))
    if sorted(names) != list(range(len(names))):
        raise _malformed(path, f"its labels are not 0 to {len(names) - 1}")
    return tuple(names[label] for label in range(len(names))), splits


def _malformed(path: Path, why: str) -> UserError:
    return UserError(f"the split file {path} is malformed: {why}. Fetch it again.")
