"""What is wrong with a dataset: missing, damaged and leaked images, and wrong counts."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from multiprocessing.pool import ThreadPool

from src.data.images import DamagedImageError, ImageFiles, Item
from src.errors import UserError

MISSING = "missing"
CLASSES = "classes"

_CHUNK = 32
"""Images handed to a thread at once: few enough for the progress to be seen on slow disks."""


def distinct(images: ImageFiles) -> dict[str, Item]:
    """Give every image once, by its key, in the order of the splits."""
    return {item.key: item for items in images.splits.values() for item in items}


def examine(images: ImageFiles, items: Collection[Item]) -> Iterator[tuple[str, str | None]]:
    """Decode `items` to their ends, on all cores.

    Yields:
        In their order, the key of each and what is wrong with it: `MISSING`, another reason, or
        None.
    """
    # Pillow lets go of the interpreter's lock while it decodes: threads are as fast as processes.
    with ThreadPool() as pool:
        problems = pool.imap(partial(_problem, images), items, _CHUNK)
        yield from zip((item.key for item in items), problems, strict=True)


def leaked(images: ImageFiles) -> dict[str, str]:
    """Find the test images that may be trained or selected on: key → which splits list it."""
    test = {item.key for item in images.splits["test"]}
    return {
        item.key: f"listed by {split} and by test"
        for split, items in images.splits.items()
        if split != "test"
        for item in items
        if item.key in test
    }


def wrong_counts(
    images: ImageFiles, totals: Mapping[str, int], per_class: Mapping[str, int]
) -> list[str]:
    """Compare how many images and classes are listed with what is known.

    Args:
        images: the dataset.
        totals: the images of each split, and the `classes` that have any.
        per_class: the images of every class in each split.

    Returns:
        A sentence for each total and each class that differs, with both numbers.

    Raises:
        UserError: a key is neither a split nor, in `totals`, `classes`.
    """
    counts = {
        split: Counter(item.label for item in items) for split, items in images.splits.items()
    }
    for known, keys in ((totals, {*counts, CLASSES}), (per_class, set(counts))):
        if unknown := set(known) - keys:
            raise UserError(
                f"dataset.totals or per_class has the key {', '.join(sorted(unknown))}, which is "
                f"none of {', '.join(sorted(keys))}: correct it."
            )
    found = {split: count.total() for split, count in counts.items()}
    found[CLASSES] = len(set().union(*counts.values()))
    return [
        f"{found[CLASSES]:,} classes, not {total:,}"
        if key == CLASSES
        else f"{found[key]:,} images in {key}, not {total:,}"
        for key, total in totals.items()
        if found[key] != total
    ] + [
        f"{counts[split][label]:,} images of {name!r} in {split}, not {number:,}"
        for split, number in per_class.items()
        for label, name in enumerate(images.class_names)
        if counts[split][label] != number
    ]


def _problem(images: ImageFiles, item: Item) -> str | None:
    if not (images.root / item.key).is_file():
        return MISSING
    try:
        images.load(item)
    except DamagedImageError as error:
        return error.reason
    except UserError as error:
        return str(error)
    return None
