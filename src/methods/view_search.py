"""Choosing the weights of depth maps on labelled point clouds."""

import itertools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from src.methods.search import Choice

VIEW_WEIGHTS = (0.25, 0.5, 0.75, 1.0)
"""The weights over which the release of PointCLIP searches (Zhang et al., CVPR 2022)."""

EVERY = 4**6
"""How many combinations of weights are all tried."""

BLENDED_PER_PASS = 1 << 22
"""How many logits are blended at once, which bounds the memory."""


@runtime_checkable
class SeesViews(Protocol):
    """A head for objects of several views, whose logits are the weighted sum of each view's."""

    def each_view(self, *features: Tensor) -> Float[Tensor, "n v c"]: ...


class ViewSearch:
    """Accumulates the logits of every view, then picks the views' weights among `VIEW_WEIGHTS`.

    Over 6 views all 4,096 combinations are tried, as in PointCLIP's release: in `grid` mode the
    first best in the order of its loops wins, the last view's loop innermost; in `exact` mode the
    best that is nearest to equal weights, in log distance. The release would try a million for 10
    views, too. Here one view after another takes the value with the most objects right, round by
    round, beginning with equal weights, until nothing is strictly better.
    """

    def __init__(self, mode: str) -> None:
        """Prepare a search; the mode is `exact` or `grid`."""
        self.mode = mode
        self._logits: list[NDArray[np.float32]] = []
        self._label: list[NDArray[np.int64]] = []

    def add(self, head: SeesViews, features: Sequence[Tensor], label: Int[Tensor, " n"]) -> None:
        """Take in one batch: what `head` says of each view."""
        self._logits.append(head.each_view(*features).float().cpu().numpy())
        self._label.append(label.cpu().numpy())

    def best(self) -> Choice:
        """Pick the weights."""
        logits, label = np.concatenate(self._logits), np.concatenate(self._label)
        views = logits.shape[1]
        pick = _best_of_all_weights if len(VIEW_WEIGHTS) ** views <= EVERY else _climb
        weights, right = pick(logits, label, self.mode)
        return Choice({"view_weights": list(weights)}, 100.0 * right / len(label))


def _right(
    logits: NDArray[np.float32], label: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Count the objects that are right with each row of `weights` `[k, v]`."""
    counts = []
    rows = max(1, BLENDED_PER_PASS // (logits.shape[0] * logits.shape[2]))
    for some in np.split(weights, range(rows, len(weights), rows)):
        blended = np.tensordot(some, logits, axes=(1, 1))  # [k, n, c]
        counts.append((blended.argmax(axis=2) == label).sum(axis=1))
    return np.concatenate(counts)


def _best_of_all_weights(
    logits: NDArray[np.float32], label: NDArray[np.int64], mode: str
) -> tuple[list[float], int]:
    every = np.array([*itertools.product(VIEW_WEIGHTS, repeat=logits.shape[1])], dtype=np.float32)
    count = _right(logits, label, every)
    best = np.flatnonzero(count == count.max())
    logs = np.log(every[best])
    distance = ((logs - logs.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    # Of equal weights only the proportions count: the largest of them stand for all.
    nearest = len(distance) - 1 - distance[::-1].argmin()
    chosen = best[0] if mode == "grid" else best[nearest]
    return every[chosen].tolist(), int(count[chosen])


def _climb(
    logits: NDArray[np.float32], label: NDArray[np.int64], _: str
) -> tuple[list[float], int]:
    weights = np.full(logits.shape[1], max(VIEW_WEIGHTS), dtype=np.float32)
    best, before = int(_right(logits, label, weights[None])[0]), -1
    while best > before:
        before = best
        for view in range(len(weights)):
            trials = np.repeat(weights[None], len(VIEW_WEIGHTS), axis=0)
            trials[:, view] = VIEW_WEIGHTS
            count = _right(logits, label, trials)
            if count.max() > best:
                best, weights = int(count.max()), trials[count.argmax()]
    return weights.tolist(), best
