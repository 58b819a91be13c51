"""What is wrong with a dataset: missing, damaged and leaked items, and wrong counts.

An item is an image or a point cloud; `KINDS` has what differs between the two.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Protocol

from src.data.images import DamagedImageError, ImageFiles, Item, Splits
from src.data.point_clouds import DamagedCloudError, HDF5Clouds
from src.errors import UserError

MISSING = "missing"
CLASSES = "classes"

_CHUNK = 32
"""Items that a thread is given at once: few enough to show progress on slow disks."""


class DatasetFiles(Protocol):
    """A dataset that lies in files below `root`; an item's key says where."""

    @property
    def root(self) -> Path: ...

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def splits(self) -> Splits: ...


@dataclass(frozen=True)
class Kind:
    """What the items of a dataset are.

    Attributes:
        noun: their name, in the plural.
        problem: reads one to its end; says what is wrong with it, `MISSING` or another reason.
        unless_mended: what remains to a user who has no intact copy, or nothing.
    """

    noun: str
    problem: Callable[[Any, Item], str | None]
    unless_mended: str = ""


def kind(dataset: DatasetFiles) -> Kind:
    """Tell images from point clouds."""
    return KINDS[type(dataset)]


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
        problems = pool.imap(partial(kind(dataset).problem, dataset), items, _CHUNK)
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


def _image_problem(images: ImageFiles, item: Item) -> str | None:
    if not (images.root / item.key).is_file():
        return MISSING
    try:
        images.load(item)
    except DamagedImageError as error:
        return error.reason
    except UserError as error:
        return str(error)
    return None


def _cloud_problem(clouds: HDF5Clouds, item: Item) -> str | None:
    try:
        clouds.load(item)
    except DamagedCloudError as error:
        return error.reason
    return None


KINDS: dict[type, Kind] = {
    ImageFiles: Kind(
        "images", _image_problem, "; on_bad_image=skip leaves damaged ones out of a run"
    ),
    HDF5Clouds: Kind("point clouds", _cloud_problem),
}
