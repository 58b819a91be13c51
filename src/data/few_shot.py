"""Few-shot sampling: which images a K-shot run may see.

That of CoOp (Zhou et al., IJCV 2022), with as many images of every class, and that of SS-Text
(Silva-Rodriguez et al., 2025), with as many as the class is frequent.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeVar, cast, get_args

import numpy as np

from src.data.rows import Rows
from src.errors import UserError

MAX_VALIDATION_SHOTS = 4
"""How many validation images per class CoOp's protocol looks at at most."""
Imbalance = Literal["relaxed", "realistic"]
"""What classes give that are hardly frequent enough for one image: one all the same, or none."""
IMBALANCES: tuple[str, ...] = get_args(Imbalance)


class Labelled(Protocol):
    @property
    def label(self) -> int: ...


AnyItem = TypeVar("AnyItem", bound=Labelled)


def sample(
    train: Sequence[AnyItem],
    val: Sequence[AnyItem],
    shots: int,
    seed: int,
    validation_shots: int = MAX_VALIDATION_SHOTS,
) -> tuple[list[AnyItem], list[AnyItem]]:
    """Draw the support set and its validation items, in CoOp's order.

    Args:
        train: the training items, in the split file's order.
        val: the validation items, in the split file's order.
        shots: training items per class; a class with fewer gives all it has.
        seed: seeds one generator for both draws, the support set's first.
        validation_shots: how many validation items per class at most. LP++ and ProLIP look at as
            many as there are shots.

    Returns:
        `shots` training items and min(`shots`, `validation_shots`) validation items per class,
        classes in order of first appearance.

    Raises:
        UserError: no class has `shots` training items.
    """
    by_label = _group(train)
    largest = max(map(len, by_label.values()))
    if shots > largest:
        raise UserError(
            f"shots={shots} is more than the data holds: its largest class has {largest} training "
            f"items. Give shots={largest} or fewer."
        )
    generator = random.Random(seed)
    return (
        _draw(by_label, shots, generator),
        _draw(_group(val), min(shots, validation_shots), generator),
    )


def support(
    train: Sequence[AnyItem], shots: int, seed: int, imbalance: Imbalance | None
) -> list[AnyItem]:
    """Draw a support set by CoOp's protocol or, with `imbalance`, by the classes' frequency."""
    if imbalance is None:
        return sample(train, (), shots, seed)[0]
    return sample_by_frequency(train, shots, seed, imbalance)


def sample_by_frequency(
    train: Sequence[AnyItem], shots: int, seed: int, imbalance: Imbalance
) -> list[AnyItem]:
    """Draw N = `shots` x classes items in all, each class as often as it is frequent in `train`.

    As `balance_split` of SS-Text's release does: of class c, round(N p_c) items, with p_c its share
    of `train`; `relaxed` gives every class one at least. What is more than N then is taken from the
    largest classes, one by one. A class's items are shuffled by numpy's generator, seeded anew.

    Returns:
        The items, class by class in the order of the labels; of a class that has fewer than it
        should give, all.

    Raises:
        UserError: there are more shots than the average class has items.
    """
    by_label = dict(sorted(_group(train).items()))
    total = shots * len(by_label)
    if total > len(train):
        raise UserError(
            f"shots={shots} of {len(by_label)} classes are {total} items, and the data holds "
            f"{len(train)} for training. Give shots={len(train) // len(by_label)} or fewer."
        )
    least = 1 if imbalance == "relaxed" else 0
    counts = {
        label: max(least, round(total * (len(items) / len(train))))
        for label, items in by_label.items()
    }
    for _ in range(sum(counts.values()) - total):
        counts[max(counts, key=lambda label: counts[label])] -= 1
    drawn = []
    for label, items in by_label.items():
        order = np.arange(len(items))
        np.random.RandomState(seed).shuffle(order)
        drawn += [items[row] for row in order[: counts[label]]]
    return drawn


def _group(items: Sequence[AnyItem]) -> Mapping[int, Sequence[AnyItem]]:
    """Sort the items by class, the classes in order of first appearance."""
    if isinstance(items, Rows):
        return cast(Mapping[int, Sequence[AnyItem]], items.by_label())
    by_label: dict[int, list[AnyItem]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    return by_label


def _draw(
    by_label: Mapping[int, Sequence[AnyItem]], shots: int, generator: random.Random
) -> list[AnyItem]:
    drawn: list[AnyItem] = []
    for items in by_label.values():
        drawn += generator.sample(items, shots) if len(items) >= shots else items
    return drawn
