"""Tables with a column of images and one of classes, as on the Hugging Face Hub.

Where they come from is the matter of `hub_tables.py`.
"""

import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.data import rows as table_rows
from src.data.class_names import check_names, read_names
from src.data.dividing import hold_out
from src.data.hub_columns import Classes, find_columns, read_classes
from src.data.hub_tables import open_tables
from src.data.images import SPLITS, DamagedImageError, Item, MissingImageError, decode
from src.data.rows import Rows, row_of
from src.data.text_files import listing
from src.errors import UserError, require_integer

log = logging.getLogger(__name__)

USUAL = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""What the authors of datasets call their splits."""
VAL_OF_TRAIN = 0.2
TEST_OF_ALL, VAL_OF_REST = 0.3, 2 / 7
"""An undivided dataset becomes 50 % train, 20 % val and 30 % test."""


@dataclass(frozen=True)
class TableImages:
    """Images in the rows of tables, keyed by the table's split and the row, as `train/17`.

    Attributes:
        root: the name on the Hub or the folder.
        tables: a `datasets.Dataset` for each split that items come from, memory-mapped, whose only
            column has the images, not decoded.
        identity: stands for all that the tables hold.
        notes: what the record of a run must say of it: the commit, and where splits come from.
    """

    root: str
    class_names: Sequence[str]
    splits: Mapping[str, Rows]
    tables: Mapping[str, Any]
    identity: str
    notes: Sequence[str]

    def load(self, item: Item) -> Image.Image:
        """Decode one row.

        Raises:
            DamagedImageError: it holds no image that can be decoded to its end.
            UserError: the table only names a file, which is missing or cannot be read.
        """
        split, row = row_of(item)
        cell = self.tables[split][row].column(0)[0].as_py()
        found = cell if isinstance(cell, dict) else {"bytes": cell}
        if found.get("bytes") is not None:
            return decode(io.BytesIO(found["bytes"]), self.where(item))
        path = found.get("path")
        if path is None:
            raise DamagedImageError(self.where(item), "there is no image in this row")
        if not Path(path).is_absolute():
            raise DamagedImageError(
                self.where(item), f"the table holds its path only, {path}, and not the image"
            )
        if not Path(path).is_file():
            raise MissingImageError(Path(path))
        try:
            with Path(path).open("rb") as file:
                return decode(file, path)
        except OSError as error:
            raise UserError(f"cannot read the image {path}: {error.strerror}.") from error

    def where(self, item: Item) -> str:
        """Name an item by the dataset, the split and the row."""
        return ":".join([self.root, *map(str, row_of(item))])

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash what stands for the tables, which rows of them `items` are, and their labels."""
        digest = hashlib.sha256(f"{self.identity}\0".encode())
        digest.update(table_rows.fingerprint(items))
        return digest.hexdigest()


def read(
    path: Any,
    config: Any,
    revision: Any,
    image: str | None,
    label: str | None,
    split: Mapping[str, Any],
    class_names: Any,
    split_seed: int,
) -> TableImages:
    """Read a dataset of the Hub, which is fetched unless it is in the cache, or of a folder.

    Splits have their usual names, unless `split` has others. Without a test split, the validation
    split is the test split. Without a validation split, 20 % of each class's train images become
    val. A dataset that is undivided is divided into 50 % train, 20 % val and 30 % test, class by
    class. All draws depend on `split_seed` only.

    Args:
        path: `owner/name` on the Hub, or a folder of Parquet files or of `save_to_disk`.
        config: the configuration, where there are several.
        revision: a branch, tag or commit on the Hub.
        image: the column with images; None: the only one.
        label: the column with classes; None: the only one whose type is that of classes, or
            `label`.
        split: the dataset's name of `train`, `val` and `test`, or None for each.
        class_names: a JSON object from label to class name, or a text file with a label and its
            class name on each line; without it, the names are the dataset's own.
        split_seed: decides which images are drawn for which split, where any are.

    Returns:
        Items in the order of the tables; `train` or `val` may be empty.

    Raises:
        UserError: it cannot be fetched or read, a choice among columns, configurations or splits
            is missing or wrong, or labels are unusable; the message has the choices.
    """
    require_integer("dataset.split_seed", split_seed, least=0)
    if path is None:
        raise UserError(
            "which dataset? Give `dataset.path=owner/name`, of the Hugging Face Hub, or "
            "`dataset.path=FOLDER`."
        )
    origin = str(path)
    tables = open_tables(origin, *(None if one is None else str(one) for one in (config, revision)))
    chosen, notes = choose_splits(split, list(tables.splits), origin)
    used = {name: tables.splits[name] for name in dict.fromkeys(filter(None, chosen.values()))}
    image, label = find_columns(used, image, label, origin)
    classes = read_classes(used, label, origin)
    names = classes.names
    if class_names is not None:
        names = read_names(names, Path(str(class_names)))
    if len(names) < 2:
        raise UserError(
            f"{origin} has too few classes, {listing(names) or 'none'}: there must be two or more."
        )
    check_names(names)
    splits, drawn = _divided(chosen, classes, split_seed, origin)
    notes = [*notes, *drawn]
    if tables.revision is not None:
        notes.insert(0, f"commit {tables.revision} of the Hub")
    for note in notes:
        log.info("%s: %s", origin, note)
    return TableImages(
        origin,
        names,
        splits,
        {name: each.select_columns([image]).with_format("arrow") for name, each in used.items()},
        f"{tables.identity}\0{image}",
        notes,
    )


def choose_splits(
    given: Mapping[str, Any], names: Sequence[str], origin: str
) -> tuple[dict[str, str | None], list[str]]:
    """Find the dataset's own name of each of `SPLITS`.

    Args:
        given: the user's choice for each, or None.
        names: those of the dataset.
        origin: the dataset, for messages.

    Returns:
        Of each of `SPLITS` the name, or None; an undivided dataset is its train split alone. And
        what is to be said of it.

    Raises:
        UserError: there is no such split, one is chosen twice, or there are none to test on.
    """
    if not isinstance(given, Mapping):
        raise UserError(
            f"dataset.split={given} names no split: give dataset.split.test=..., and train and val."
        )
    if wrong := sorted(set(given) - set(SPLITS)):
        raise UserError(
            f"dataset.split.{wrong[0]}: there is no such split. There are {', '.join(SPLITS)}."
        )
    chosen = {one: None if given.get(one) is None else str(given[one]) for one in SPLITS}
    for one, name in chosen.items():
        if name is not None and name not in names:
            raise UserError(
                f"dataset.split.{one}={name}: {origin} has no such split. There are "
                f"{listing(names)}."
            )
    taken = [name for name in chosen.values() if name is not None]
    if twice := [name for name in taken if taken.count(name) > 1]:
        raise UserError(
            f"dataset.split names the split {twice[0]!r} twice: images would be measured on that "
            "are also learned from. Leave one out."
        )
    free = [name for name in names if name not in taken]
    for one in SPLITS:
        usual = [name for name in USUAL[one] if name in free]
        if chosen[one] is None and usual:
            chosen[one] = usual[0]
    notes = []
    if chosen["test"] is None:
        notes.append(_replace_test(chosen, given, names, origin))
    if others := [name for name in names if name not in chosen.values()]:
        notes.append(f"left out, as dataset.split does not name them: {listing(others)}")
    return chosen, notes


def _replace_test(
    chosen: dict[str, str | None], given: Mapping[str, Any], names: Sequence[str], origin: str
) -> str:
    """Change `chosen` to what there is to test on, and say so."""
    if chosen["val"] is not None and given.get("val") is None:
        chosen["val"], chosen["test"] = None, chosen["val"]
        return f"there is no test split: {chosen['test']!r} is tested on"
    if len(names) == 1:
        chosen["train"] = names[0]
        return f"there is one split, {names[0]!r}"
    raise UserError(
        f"which split of {origin} is tested on? Give dataset.split.test=... There are "
        f"{listing(names)}."
    )


def _divided(
    chosen: Mapping[str, str | None], classes: Classes, seed: int, origin: str
) -> tuple[dict[str, Rows], list[str]]:
    """Give the rows of each of `SPLITS`, and draw those that the dataset lacks; say which."""
    rows = {
        name: Rows(name, np.arange(len(each), dtype=np.int64), each)
        for name, each in classes.labels.items()
    }
    none = Rows("none", np.zeros(0, np.int64), np.zeros(0, np.int64))
    splits = {one: none if name is None else rows[name] for one, name in chosen.items()}
    notes = []
    if chosen["test"] is None:
        counts = np.bincount(splits["train"].labels, minlength=len(classes.names))
        few = np.flatnonzero((counts > 0) & (counts < len(SPLITS)))
        if len(few):
            raise UserError(
                f"{origin} has too few images of "
                f"{listing([f'{classes.names[one]} ({counts[one]})' for one in few])} to divide "
                f"into train, val and test: a class needs {len(SPLITS)} or more. Divide it "
                "yourself, or choose splits by dataset.split."
            )
        _take(splits, "test", TEST_OF_ALL, seed)
        _take(splits, "val", VAL_OF_REST, seed)
        notes.append(
            f"of each class, 50 % are train, 20 % val and 30 % test, drawn with "
            f"dataset.split_seed={seed}"
        )
    elif chosen["val"] is None and len(splits["train"]):
        _take(splits, "val", VAL_OF_TRAIN, seed)
        notes.append(
            f"val is {VAL_OF_TRAIN:.0%} of each class of {chosen['train']!r}, drawn with "
            f"dataset.split_seed={seed}"
        )
    if not len(splits["test"]):
        raise UserError(f"{origin} has no test images: there is nothing to measure on.")
    return splits, notes


def _take(splits: dict[str, Rows], target: str, share: float, seed: int) -> None:
    """Move a share of each class's train images to `target`."""
    train = splits["train"]
    drawn = hold_out(train.labels, share, seed)
    splits["train"], splits[target] = train.chosen(~drawn), train.chosen(drawn)
