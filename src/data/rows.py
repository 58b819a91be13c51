"""Items of a dataset with many rows, made one by one when they are asked for."""

import hashlib
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from src.data.images import Item


class Rows(Sequence[Item]):
    """Some rows of one table, as items with the key `source/row`.

    A million items are two arrays of 8 MB here, and a hundred times as much as Python objects.

    Attributes:
        source: what the rows are rows of, as a split or a file's name.
        rows: int64 `[n]`.
        labels: int64 `[n]`, of each of them.
    """

    def __init__(self, source: str, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        if len(rows) != len(labels):
            raise ValueError(f"{len(rows)} rows of {source} have {len(labels)} labels")
        self.source, self.rows, self.labels = source, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> "Rows": ...

    def __getitem__(self, index: int | slice) -> "Item | Rows":
        if isinstance(index, slice):
            return self.chosen(index)
        return Item(f"{self.source}/{self.rows[index]}", int(self.labels[index]))

    def chosen(self, which: NDArray[np.integer] | NDArray[np.bool_] | slice) -> "Rows":
        """Take some of the items: their positions in the order wanted, or a mask."""
        return Rows(self.source, self.rows[which], self.labels[which])

    def by_label(self) -> "dict[int, Rows]":
        """Sort the items by class, in their order; the classes in order of first appearance."""
        order = np.argsort(self.labels, kind="stable")
        ends = np.flatnonzero(np.diff(self.labels[order])) + 1
        of_class = sorted(np.split(order, ends), key=lambda positions: positions[:1].tolist())
        return {int(self.labels[each[0]]): self.chosen(each) for each in of_class if len(each)}


def row_of(item: Item) -> tuple[str, int]:
    """Take the key of an item of `Rows` apart: its source and its row."""
    source, _, row = item.key.rpartition("/")
    return source, int(row)


def fingerprint(items: Sequence[Item]) -> bytes:
    """Digest which rows of which source `items` are, and their labels: SHA-256.

    Items drawn one by one from `Rows` have the digest of `Rows` of the same rows.
    """
    some = items if isinstance(items, Rows) else _collected(items)
    digest = hashlib.sha256(f"{some.source}\0".encode())
    for array in (some.rows, some.labels):
        digest.update(np.ascontiguousarray(array, dtype="<i8").data)
    return digest.digest()


def _collected(items: Sequence[Item]) -> Rows:
    if not items:
        return Rows("", np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    sources, rows = zip(*map(row_of, items), strict=True)
    if len(set(sources)) > 1:
        raise ValueError(f"items of several sources: {sorted(set(sources))}")
    labels = np.array([item.label for item in items], dtype=np.int64)
    return Rows(sources[0], np.array(rows, dtype=np.int64), labels)
