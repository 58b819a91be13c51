"""CoOp's few-shot sampling (Zhou et al., IJCV 2022): which images a K-shot run may see."""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from src.errors import UserError

MAX_VALIDATION_SHOTS = 4


class Labelled(Protocol):
    @property
    def label(self) -> int: ...


AnyItem = TypeVar("AnyItem", bound=Labelled)


def sample(
    train: Sequence[AnyItem], val: Sequence[AnyItem], shots: int, seed: int
) -> tuple[list[AnyItem], list[AnyItem]]:
    """Draw the support set and its validation items, in CoOp's order.

    Args:
        train: the training items, in the split file's order.
        val: the validation items, in the split file's order.
        shots: training items per class; a class with fewer gives all it has.
        seed: seeds one generator for both draws, the support set's first.

    Returns:
        `shots` training items and min(`shots`, 4) validation items per class, classes in order of
        first appearance.

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
        _draw(_group(val), min(shots, MAX_VALIDATION_SHOTS), generator),
    )


def _group(items: Sequence[AnyItem]) -> dict[int, list[AnyItem]]:
    by_label: dict[int, list[AnyItem]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    return by_label


def _draw(
    by_label: dict[int, list[AnyItem]], shots: int, generator: random.Random
) -> list[AnyItem]:
    drawn = []
    for items in by_label.values():
        drawn += generator.sample(items, shots) if len(items) >= shots else items
    return drawn
