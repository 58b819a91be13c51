"""How test images are shown to a method: one after the other, all at once, or in small tasks.

Each drawing depends on its seed and its number alone, not on how many others are drawn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


class Passes(NamedTuple):
    """Passes over test images, before each of which a method forgets the one before.

    Attributes:
        rows: of each pass, int64 `[n]`: the rows of the split that it shows, in this order.
        batch_size: how many of them a method is given at once.
    """

    rows: Sequence[Int[Tensor, " n"]]
    batch_size: int

    @property
    def images(self) -> int:
        """How many images are shown, counted as often as they are."""
        return sum(map(len, self.rows))


def shuffled(label: Int[Tensor, " n"], seed: int, number: int) -> Int[Tensor, " n"]:
    """Draw an order of all images."""
    return torch.from_numpy(_generator(seed, number).permutation(len(label)))


def by_class(label: Int[Tensor, " n"], seed: int, number: int) -> Int[Tensor, " n"]:
    """Draw an order in which the images come class by class, in a random order of the classes."""
    random = _generator(seed, number)
    return torch.cat(_of_classes(label, random))


def dirichlet(
    label: Int[Tensor, " n"], seed: int, number: int, concentration: float, slots: int | None = None
) -> Int[Tensor, " n"]:
    """Draw an order of slots, over which each class is spread by a Dirichlet distribution.

    The images of a slot come in a random order. With a low concentration nearly all images of a
    class fall into one slot, with a high one they are spread evenly (as in StatA's streams,
    Zanella et al., CVPR 2025, section 5).

    Args:
        label: of each image.
        seed: of the run.
        number: of the order.
        concentration: the parameter of the symmetric distribution, above 0.
        slots: how many, 1 or more; None: as many as there are classes.
    """
    random = _generator(seed, number)
    classes = _of_classes(label, random)
    of_slot: list[list[Tensor]] = [[] for _ in range(slots or len(classes))]
    for rows in classes:
        shares = random.dirichlet([concentration] * len(of_slot))
        ends = np.rint(shares.cumsum() * len(rows)).astype(int)[:-1]
        for slot, part in zip(of_slot, torch.tensor_split(rows, ends.tolist()), strict=True):
            slot.append(part)
    joined = [torch.cat(slot) for slot in of_slot]
    return torch.cat([slot[random.permutation(len(slot))] for slot in joined])


def task(
    label: Int[Tensor, " n"], seed: int, number: int, size: int, classes: tuple[int, int]
) -> Int[Tensor, " m"]:
    """Draw a small task: images of a few classes, each image of these being as likely as another.

    Args:
        label: of each image.
        seed: of the run.
        number: of the task.
        size: how many images; where the classes drawn have fewer, all of theirs.
        classes: how many classes at least and at most, each number being as likely as another; no
            more than there are.
    """
    random = _generator(seed, number)
    of_class = _of_classes(label, random)
    least, most = (min(bound, len(of_class)) for bound in classes)
    chosen = of_class[: int(random.integers(least, most + 1))]
    rows = torch.cat(chosen)
    return rows[random.permutation(len(rows))[:size]]


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, number])


def _of_classes(label: Int[Tensor, " n"], random: np.random.Generator) -> list[Int[Tensor, " k"]]:
    """Give the rows of each class that has any, in a random order, and the classes in another."""
    rows = torch.from_numpy(random.permutation(len(label)))
    present = torch.from_numpy(np.unique(label.numpy()))
    order = torch.from_numpy(random.permutation(len(present)))
    return [rows[label[rows] == one] for one in present[order]]
