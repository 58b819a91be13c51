"""Drawing train, val and test images class by class, from a seed."""

import random
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.data.images import SPLITS


class LabelledFile(NamedTuple):
    """An image file: its class, its path below the dataset's folder, and its split if it has one.

    They are sorted by class, then by path.
    """

    label: str
    key: str
    split: str | None


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Draw the rows of a train split that become val, class by class.

    What is drawn of a class depends on `seed`, on the label and on how many rows have it, not on
    the other classes nor on where its rows lie between theirs.

    Args:
        labels: the class of each row, int64 `[N]`, 0 or greater.
        share: of each class that is drawn, rounded down, above 0 and below 1; but one row at least
            if the class has two or more, and none if it has one.
        seed: 0 or greater, below 2**63.

    Returns:
        Bool `[N]`, true for the rows of val.
    """
    if not len(labels):
        return np.zeros(0, np.bool_)
    by_class = np.argsort(labels, kind="stable")
    of_class = labels[by_class]
    starts = np.flatnonzero(np.diff(of_class, prepend=of_class[0] - 1))
    sizes = np.diff(starts, append=len(labels))
    rank = np.arange(len(labels)) - np.repeat(starts, sizes)
    # Mixed here rather than drawn by numpy, whose generators may change from version to version.
    draws = _mixed(np.array([seed], np.uint64))
    for number in (of_class, rank):
        draws = _mixed(draws ^ number.astype(np.uint64))
    whole = np.floor(sizes * share + 1e-9).astype(np.int64)  # 0.3 × 10 is 3, not 2.9999999999999996
    counts = np.minimum(np.maximum(whole, 1), sizes - 1)
    chosen = by_class[np.lexsort((draws, of_class))]
    held_out = np.zeros(len(labels), np.bool_)
    held_out[chosen[rank < np.repeat(counts, sizes)]] = True
    return held_out


def divide(images: Sequence[LabelledFile], seed: int) -> dict[str, list[LabelledFile]]:
    """Draw a split for each of the sorted `images` that does not name one.

    They become 50 % train, 20 % val and 30 % test. If there are no val images then, 20 % of each
    class's train images become val, one at least unless it is the only one.
    """
    splits = {split: [image for image in images if image.split == split] for split in SPLITS}
    for label, some in by_class(image for image in images if image.split is None):
        drawn = _shuffled(some, label, seed)
        train, val = len(some) // 2, max(1, len(some) // 5)
        splits["train"] += drawn[:train]
        splits["val"] += drawn[train : train + val]
        splits["test"] += drawn[train + val :]
    if not splits["val"]:
        of_class, splits["train"] = by_class(splits["train"]), []
        for label, some in of_class:
            drawn = _shuffled(some, label, seed)
            val = min(max(1, len(some) // 5), len(some) - 1)
            splits["val"] += drawn[:val]
            splits["train"] += drawn[val:]
    return splits


def by_class(images: Iterable[LabelledFile]) -> list[tuple[str, list[LabelledFile]]]:
    """Group sorted images by their classes."""
    return [(label, list(some)) for label, some in groupby(images, key=lambda image: image.label)]


def _shuffled(images: Sequence[LabelledFile], label: str, seed: int) -> list[LabelledFile]:
    return random.Random(f"{seed} {label}").sample(images, len(images))


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64 bits as SplitMix64 does (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
