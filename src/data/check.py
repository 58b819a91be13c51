"""What is wrong with a dataset: missing, damaged and leaked items, and wrong counts.

An item is an image or a point cloud; `Kind` has what differs between the two.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from src.data.images import DamagedImageError, Item, MissingImageError, Splits
from src.data.point_clouds import DamagedCloudError, PointClouds
from src.errors import UserError

MISSING = "missing"
CLASSES = "classes"

_CHUNK = 32
"""Items that a thread is given at once: few enough to show progress on slow disks."""


@runtime_checkable
class DatasetFiles(Protocol):
    """A dataset that lies in files."""

    @property
    def root(self) -> str | Path:
        """Where they lie, for messages."""

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def splits(self) -> Splits: ...

    def load(self, item: Item) -> Any:
        """Read one item."""

    def where(self, item: Item) -> str:
        """Say what an item is called, in messages and lists."""


@dataclass(frozen=True)
class Kind:
    """What the items of a dataset are.

    Attributes:
        noun: their name, in the plural.
        unless_mended: what remains to a user who has no intact copy, or nothing.
    """

    noun: str
    unless_mended: str = ""


def kind(dataset: DatasetFiles) -> Kind:
    """Tell images from point clouds."""
    return CLOUDS if isinstance(dataset, PointClouds) else IMAGES


def distinct(dataset: DatasetFiles) -> dict[str, Item]:
    """Give every item once, by its key, in the order of the splits."""
    return {item.key: item for items in dataset.splits.values() for item in items}


def examine(dataset: DatasetFiles, items: Collection[Item]) -> Iterator[tuple[str, str | None]]:
    """Read `items` to their ends, on all cores.

    Yields:
        In their order, the key of each and what is wrong with it: `MISSING`, another reason, or
        None.
    """
    # Pillow releases the interpreter's lock while it decodes, so threads are as fast as processes.
    with ThreadPool() as pool:
        problems = pool.imap(partial(_problem, dataset), items, _CHUNK)
        yield from zip((item.key for item in items), problems, strict=True)


def leaked(dataset: DatasetFiles) -> dict[str, str]:
    """Find the test items that may be trained or selected on: key → which splits list it."""
    test = {item.key for item in dataset.splits["test"]}
    return {
        item.key: f"listed by {split} and by test"
        for split, items in dataset.splits.items()
        if split != "test"
        for item in items
        if item.key in test
    }


def wrong_counts(
    dataset: DatasetFiles, totals: Mapping[str, int], per_class: Mapping[str, int]
) -> list[str]:
    """Compare how many items and classes are listed with what is known.

    Args:
        dataset: the dataset.
        totals: the items of each split, and the `classes` that have any.
        per_class: the items of every class in each split.

    Returns:
        A sentence for each total and each class that differs, with both numbers.

    Raises:
        UserError: a key is neither a split nor, in `totals`, `classes`.
    """
    counts = {
        split: Counter(item.label for item in items) for split, items in dataset.splits.items()
    }
    for known, keys in ((totals, {*counts, CLASSES}), (per_class, set(counts))):
        if unknown := set(known) - keys:
            raise UserError(
                f"dataset.totals or per_class has the key {', '.join(sorted(unknown))}, which is "
                f"none of {', '.join(sorted(keys))}: correct it."
            )
    noun = kind(dataset).noun
    found = {split: count.total() for split, count in counts.items()}
    found[CLASSES] = len(set().union(*counts.values()))
    return [
        f"{found[CLASSES]:,} classes, not {total:,}"
        if key == CLASSES
        else f"{found[key]:,} {noun} in {key}, not {total:,}"
        for key, total in totals.items()
        if found[key] != total
    ] + [
        f"{counts[split][label]:,} {noun} of {name!r} in {split}, not {number:,}"
        for split, number in per_class.items()
        for label, name in enumerate(dataset.class_names)
        if counts[split][label] != number
    ]


def _problem(dataset: DatasetFiles, item: Item) -> str | None:
    """Read an item to its end; say what is wrong with it, `MISSING` or another reason."""
    try:
        dataset.load(item)
    except MissingImageError:
        return MISSING
    except (DamagedImageError, DamagedCloudError) as error:
        return error.reason
    except UserError as error:
        return str(error)
    return None


IMAGES = Kind("images", "; on_bad_image=skip leaves damaged ones out of a run")
CLOUDS = Kind("point clouds")
