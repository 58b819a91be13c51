"""A dataset of shards: whose rows are of which split and class, and how one is decoded."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.data import rows
from src.data.class_names import KEY, check_names, read_names
from src.data.dividing import hold_out
from src.data.images import SPLITS, DamagedImageError, Item, Splits, decode
from src.data.rows import Rows, row_of
from src.data.text_files import at_most, listing, read_text
from src.data.webdataset.index import Index, indexes
from src.data.webdataset.remote import shown
from src.data.webdataset.shards import UNDIVIDED, Shard, find
from src.data.webdataset.tar import MOST_CLASSES, check_label
from src.errors import UserError, require_integer

CLASS_NAMES = "classnames.txt"
"""The file beside shards that names the class of each number, one on a line, from 0."""
VAL, TEST = 0.2, 0.3
"""The shares of images that come undivided; val is this share of train images where it is drawn."""
LEAST = 3
"""Images that a class needs to be divided: one for each split."""


class Table(NamedTuple):
    """The rows of one source, shard by shard.

    Attributes:
        indexes: of the shards.
        starts: the first row of each shard and, at the end, the number of rows: int64 `[s + 1]`.
        offset: where each image begins in its shard, int64 `[n]`.
        size: how many bytes it has, int64 `[n]`.
    """

    indexes: Sequence[Index]
    starts: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    def place(self, row: int) -> tuple[Index, int]:
        """Find the shard of a row, and its row there."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.indexes[number], row - int(self.starts[number])


@dataclass(frozen=True)
class TarImages:
    """Images in shards, keyed by their source and row.

    Attributes:
        root: where the shards lie, for messages.
        tables: the rows of each source.
        notes: what the record of a run must say of its splits.
    """

    root: str
    class_names: Sequence[str]
    splits: Splits
    tables: Mapping[str, Table]
    notes: Sequence[str] = ()

    def load(self, item: Item) -> Image.Image:
        """Decode one image.

        Raises:
            DamagedImageError: it cannot be decoded to its end.
            UserError: its shard is missing, cannot be read, or was replaced since it was indexed.
        """
        source, row = row_of(item)
        table = self.tables[source]
        index, _ = table.place(row)
        content = index.shard.read(int(table.offset[row]), int(table.size[row]), index.status)
        try:
            return decode(io.BytesIO(content), item.key)
        except DamagedImageError as error:  # Names are looked up only where they are needed.
            raise DamagedImageError(self.where(item), error.reason) from error

    def where(self, item: Item) -> str:
        """Name the shard and the member."""
        source, row = row_of(item)
        index, row_there = self.tables[source].place(row)
        return f"{index.shard.shown}: {index.name(row_there)}"

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash which rows `items` are, their labels, and the status of all shards of their source.

        The status has a shard's size and modification time, or a server's tag: what lies in it is
        not hashed, nor is where it lies.
        """
        source, _ = row_of(items[0])
        digest = hashlib.sha256(rows.fingerprint(items))
        for index in self.tables[source].indexes:
            digest.update(f"\n{len(index.contents.offset)} {index.status}".encode())
        return digest.hexdigest()


def read(
    path: str | None,
    split: Mapping[str, Any],
    class_names: str | None,
    label: str | None,
    split_seed: int,
    store: str,
) -> TarImages:
    """Read the shards of `dataset.path`, or of each split; make their indexes where needed.

    Images that no split is named for are divided class by class into 50 % train, 20 % val and 30 %
    test; where there are train but no val shards, 20 % of each class's train images become val.

    Args:
        path: a folder or a pattern, as `find` takes them. A folder may hold `classnames.txt`.
        split: a pattern or several for each split, in place of `path`.
        class_names: a JSON object from label to class name, or a text file with a label and its
            name on each line, or where labels are numbers a text file with a name on each line;
            without it and without `classnames.txt`, labels are class names.
        label: the member that has the label: `cls`, `txt` or `json.KEY`; None: `cls`, or else
            `txt`.
        split_seed: decides which images are drawn for which split.
        store: the feature store's folder, where indexes are kept.

    Raises:
        UserError: something is missing or malformed; the message names the shard and the member.
    """
    path = None if path is None else str(path)  # On the command line, 2024 is a number.
    shards = find(path, split)
    named_beside = path is not None and (Path(path) / CLASS_NAMES).is_file()
    names = None
    if class_names is None and named_beside:
        names = names_of_numbers(Path(str(path)) / CLASS_NAMES)
    root = shown(path or at_most(shown(str(one)) for one in split.values() if one is not None))
    return assemble(root, shards, names, class_names, label, split_seed, Path(store))


def names_of_numbers(path: Path) -> list[str]:
    """Read the name of class 0, 1, ... from the lines of a text file.

    Raises:
        UserError: it cannot be read, or a line before the last name is blank.
    """
    lines = [line.strip() for line in read_text(path, KEY).rstrip().splitlines()]
    if "" in lines or not lines:
        raise UserError(f"{path} has no class name on line {lines.index('') + 1 if lines else 1}.")
    return lines


def assemble(
    root: str,
    shards: Mapping[str, Sequence[Shard]],
    names: Sequence[str] | None,
    class_names: str | None,
    label: str | None,
    split_seed: int,
    store: Path,
) -> TarImages:
    """Index the shards of each split, and make a dataset of them.

    Args:
        root: where they lie, for messages.
        shards: of each split, or of `UNDIVIDED`.
        names: of the classes by their numbers, if they are known.
        class_names: as for `read`.
        label: as for `read`.
        split_seed: as for `read`.
        store: as for `read`.

    Raises:
        UserError: as `read`.
    """
    require_integer("dataset.split_seed", split_seed, least=0)
    check_label(label)
    if not {UNDIVIDED, "test"} & set(shards):
        raise UserError(
            f"{root} has no test shards: there is nothing to measure on. Give dataset.split.test="
            "..., or all shards as one pattern, dataset.path=..., and they are divided."
        )
    every = indexes([one for of_split in shards.values() for one in of_split], label, store)
    found, rest = {}, every
    for source, some in shards.items():
        found[source], rest = rest[: len(some)], rest[len(some) :]
    labels, class_list = _classes(root, found, names, class_names)
    for of_source in found.values():
        _check_keys(of_source)
    splits, notes = _split(root, labels, class_list, split_seed)
    tables = {source: _table(of_source) for source, of_source in found.items()}
    return TarImages(root, class_list, splits, tables, notes)


def _table(of_source: Sequence[Index]) -> Table:
    contents = [index.contents for index in of_source]
    return Table(
        of_source,
        np.cumsum([0, *(len(one.offset) for one in contents)], dtype=np.int64),
        np.concatenate([one.offset for one in contents]),
        np.concatenate([one.size for one in contents]),
    )


def _classes(
    root: str,
    found: Mapping[str, Sequence[Index]],
    names: Sequence[str] | None,
    class_names: str | None,
) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Give the labels of each source as numbers from 0, and the name of each number."""
    every = [index for of_source in found.values() for index in of_source]
    by_name = [index for index in every if index.contents.class_names is not None]
    if by_name and len(by_name) < len(every):
        other = next(index for index in every if index.contents.class_names is None)
        raise UserError(
            f"the labels in the shard {by_name[0].shard.shown} are names, those in "
            f"{other.shard.shown} numbers: say by dataset.label=... which member is the label."
        )
    if by_name:
        told = sorted({name for index in every for name in index.contents.class_names or ()})
        if len(told) > MOST_CLASSES:
            raise UserError(
                f"{root} has {len(told):,} different labels: these are captions. Say by "
                "dataset.label=... which member is the label."
            )
        number = {name: position for position, name in enumerate(told)}
        labels = {
            source: np.concatenate(
                [
                    np.array([number[name] for name in index.contents.class_names or ()], np.int64)[
                        index.contents.label
                    ]
                    for index in of_source
                ]
            )
            for source, of_source in found.items()
        }
    else:
        labels = {
            source: np.concatenate([index.contents.label for index in of_source])
            for source, of_source in found.items()
        }
        present = np.unique(np.concatenate([np.unique(one) for one in labels.values()]))
        told = [str(one) for one in present]
        if class_names is not None:
            names = _names_by_line(told, Path(str(class_names)))
        if names is not None:
            _check_numbers(every, len(names), str(class_names or f"{root}/{CLASS_NAMES}"))
            check_names(names)
            return labels, list(names)
        labels = {source: np.searchsorted(present, one) for source, one in labels.items()}
    if len(told) < 2:
        raise UserError(f"{root} has one class, {told[0]!r}: there must be two or more.")
    class_list = told if class_names is None else read_names(told, Path(str(class_names)))
    check_names(class_list)
    return labels, class_list


def _names_by_line(labels: Sequence[str], path: Path) -> list[str] | None:
    """Read a text file with a name on each line; None if each label begins a line, or by JSON."""
    if path.suffix.lower() == ".json":
        return None
    first = {
        line.split(maxsplit=1)[0] for line in read_text(path, KEY).splitlines() if line.split()
    }
    return None if set(labels) <= first else names_of_numbers(path)


def _check_numbers(every: Sequence[Index], classes: int, where: str) -> None:
    for index in every:
        wrong = np.flatnonzero(index.contents.label >= classes)
        if len(wrong):
            row = int(wrong[0])
            raise UserError(
                f"the label of {index.name(row)!r} in the shard {index.shard.shown} is "
                f"{index.contents.label[row]}, and {where} names the classes 0 to {classes - 1}: "
                "correct one of them."
            )


def _check_keys(of_source: Sequence[Index]) -> None:
    """Refuse a key that two shards of a split have: an image would count twice."""
    keys = np.concatenate([index.contents.key for index in of_source])
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    if not len(same):
        return
    starts = np.cumsum([0, *(len(index.contents.key) for index in of_source)])
    places = []
    for row in order[[same[0], same[0] + 1]]:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        index = of_source[number]
        places.append(f"{index.name(int(row - starts[number]))!r} in {index.shard.shown}")
    raise UserError(
        f"two shards of one split have the same key: {places[0]}, and {places[1]}"
        f"{f' ({len(same):,} such keys)' if len(same) > 1 else ''}. Give each shard once, and name "
        "each image once."
    )


def _split(
    root: str, labels: Mapping[str, NDArray[np.int64]], class_names: Sequence[str], seed: int
) -> tuple[dict[str, Rows], list[str]]:
    every = {source: Rows(source, np.arange(len(one)), one) for source, one in labels.items()}
    splits = {split: every.get(split, _none(split)) for split in SPLITS}
    notes = []
    if UNDIVIDED in every:
        undivided = every[UNDIVIDED]
        counts = np.bincount(undivided.labels, minlength=len(class_names))
        few = [
            f"{class_names[one]} ({counts[one]})" for one in np.flatnonzero(counts < LEAST).tolist()
        ]
        if few:
            raise UserError(
                f"{root} has too few images of {listing(few)} to divide into train, val and test: "
                f"a class needs {LEAST} or more. Add some, or name the shards of each split by "
                "dataset.split.train=... and dataset.split.test=..."
            )
        rest, splits["test"] = _divided(undivided, TEST, seed)
        splits["train"], splits["val"] = _divided(rest, VAL / (1 - TEST), seed)
        notes.append(f"the splits are drawn from all images, with dataset.split_seed={seed}")
    elif len(splits["train"]) and not len(splits["val"]):
        splits["train"], splits["val"] = _divided(splits["train"], VAL, seed)
        notes.append(
            f"val is {VAL:.0%} of each class of train, drawn with dataset.split_seed={seed}"
        )
    return splits, notes


def _divided(some: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Draw a share of each class, and give the rest and what was drawn."""
    drawn = hold_out(some.labels, share, seed)
    return some.chosen(~drawn), some.chosen(drawn)


def _none(split: str) -> Rows:
    return Rows(split, np.zeros(0, np.int64), np.zeros(0, np.int64))
