"""Choosing one, two or three settings of a head on labelled images.

The heads that are searched are linear in one setting, the inner one, once the others are fixed:
logits = base + inner · direction (CALIP: beta3 within beta2; Tip-Adapter: alpha within beta; APE:
alpha within beta and gamma; GDA: alpha only).
An image is right on an interval of the inner setting, where its class's line lies above all
others; so one pass over the images gives, for each point of the outer settings' grid, the accuracy
at *every* inner value, not only at those of a grid. Only the intervals are kept, never the logits.

What each further outer setting costs is its number of steps, as a factor: a line for every point of
the grid, and 16 bytes per image and point (200 x 20 points and 10,000 images: 640 MB).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from src.errors import UserError
from src.heads.base import Searchable

# How far a chosen value stays from the ends of its interval, as a share of the interval's length in
# log: at an end, rounding decides the class of an image.
MARGIN = 0.05

NO_OUTER = 1.0
"""Stands for the outer value of a head that has no outer setting."""

Point = float | tuple[float, ...]
"""Values of the outer settings: a number where there is one, a tuple where there are several."""


@dataclass(frozen=True)
class Range:
    """The values of one setting: positive, from `low` to `high`, in the release's `steps`."""

    setting: str
    low: float
    high: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high or self.steps < 1:
            raise UserError(
                f"the search range of {self.setting} is empty: low={self.low}, high={self.high}, "
                f"steps={self.steps}. Give 0 < low < high and steps of 1 or more."
            )

    def grid(self) -> list[float]:
        """Value i of n: low + i (high - low) / n, as the releases compute it; high excluded."""
        return [self.low + i * (self.high - self.low) / self.steps for i in range(self.steps)]


@dataclass(frozen=True)
class Values:
    """The values of one setting as the release lists them: positive and increasing."""

    setting: str
    values: Sequence[float]

    def __post_init__(self) -> None:
        values = list(self.values)
        if len(values) < 2 or values[0] <= 0 or values != sorted({*values}):
            raise UserError(
                f"the search values of {self.setting} are {values}: give at least two numbers, "
                "above 0 and in increasing order."
            )

    @property
    def low(self) -> float:
        return self.values[0]

    @property
    def high(self) -> float:
        return self.values[-1]

    def grid(self) -> list[float]:
        return list(self.values)


class Surface(NamedTuple):
    """The accuracy (per cent) at every point of the releases' grid.

    Attributes:
        accuracy: float32 `[outer, inner]`.
        axes: the grid's values of the outer and then of the inner setting, by name.
    """

    accuracy: NDArray[np.float32]
    axes: dict[str, list[float]]


class Choice(NamedTuple):
    """What a search chose, and its accuracy (per cent) on the images searched on."""

    settings: dict[str, Any]
    accuracy: float


def correct_interval(
    base: Float[Tensor, "n c"], direction: Float[Tensor, "n c"], label: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Find where on the line each image is classified correctly.

    Returns:
        `low` and `high` `[n]`, float64: the class `label` has the highest logit of
        `base + x · direction` for x in the open interval (low, high); empty if low >= high.
    """
    own = label.unsqueeze(1)
    ahead = base.gather(1, own) - base  # >= 0 where the own class leads at x = 0
    gain = direction.gather(1, own) - direction  # how fast the lead grows
    # The image's own class sets no bound; a parallel line that leads excludes everything, by 1 / 0.
    ahead.scatter_(1, own, math.inf)
    gain.scatter_(1, own, 0)
    crossing = ahead.neg_().div_(gain)
    if (undefined := crossing.isnan()).any():
        # The first of equal lines wins, as in argmax; where logits overflow, nothing is right.
        later = torch.arange(base.shape[1], device=base.device) > own
        bound = torch.where(later & (gain == 0), -math.inf, math.inf)
        crossing = torch.where(undefined, bound, crossing)
    low = torch.where(gain < 0, -math.inf, crossing).amax(dim=1)
    high = torch.where(gain < 0, crossing, math.inf).amin(dim=1)
    return low.double(), high.double()


class _Columns:
    """A table that grows column by column, in few blocks.

    Many small arrays would each keep the memory before it, where a batch was computed, from being
    given back: 3 GiB at ImageNet's size.
    """

    def __init__(self, rows: int) -> None:
        self._block = np.empty((rows, 0))
        self._used = 0

    @property
    def filled(self) -> NDArray[np.float64]:
        """What was appended, `[rows, columns]`."""
        return self._block[:, : self._used]

    def append(self, columns: NDArray[np.float64]) -> None:
        end = self._used + columns.shape[1]
        if end > self._block.shape[1]:
            block = np.empty((len(self._block), 2 * end))
            block[:, : self._used] = self.filled
            self._block = block
        self._block[:, self._used : end] = columns
        self._used = end


class Search:
    """Accumulates intervals batch by batch, then picks the best pair of settings.

    `exact` considers every inner value of the range and, among equally good pairs, takes the one
    nearest the default in log distance: on few images ties are the rule, and they are no evidence
    for moving. `grid` is the releases' search: only their grid, of which the first best wins.
    """

    def __init__(
        self,
        mode: str,
        outer: Range | Values | Sequence[Range | Values] | None,
        inner: Range | Values,
        default: Mapping[str, float],
    ) -> None:
        """Prepare a search.

        Args:
            mode: `exact` or `grid`.
            outer: the values of the outer setting, or of each; None if the head has none.
            inner: the values of the inner setting.
            default: the value of each setting before the search.

        Raises:
            UserError: the mode is unknown.
        """
        if mode not in {"exact", "grid"}:
            raise UserError(f"selection.search={mode} is unknown: give exact or grid.")
        self.mode, self.inner, self.default = mode, inner, default
        self.outer = [outer] if isinstance(outer, Range | Values) else list(outer or [])
        grids = [axis.grid() for axis in self.outer]
        if mode == "exact":
            grids = [
                sorted({*grid, default[axis.setting]})
                for axis, grid in zip(self.outer, grids, strict=True)
            ]
        self.outer_values = _points(grids)
        self._low = _Columns(len(self.outer_values))
        self._high = _Columns(len(self.outer_values))

    def add(self, head: Searchable, features: Sequence[Tensor], label: Int[Tensor, " n"]) -> None:
        """Take in one batch: `head`'s lines on `features`, which belong to `label`."""
        shape = len(self.outer_values), len(label)
        low, high = (np.empty(shape) for _ in range(2))
        for row, (base, direction) in enumerate(head.lines(self.outer_values, *features)):
            low[row], high[row] = (end.cpu() for end in correct_interval(base, direction, label))
        self._low.append(low)
        self._high.append(high)

    def best(self) -> Choice:
        """Pick the settings with the most images right."""
        low, high = self._low.filled, self._high.filled
        pick = self._best_of_grid if self.mode == "grid" else self._best_of_all
        outer, inner, right = pick(low, high)
        settings = self._settings(outer) | {self.inner.setting: inner}
        return Choice(settings, 100.0 * right / low.shape[1])

    def _settings(self, point: Point) -> dict[str, float]:
        values = point if isinstance(point, tuple) else (point,)
        # Without outer settings there is nothing for the value that stands for one.
        return {axis.setting: value for axis, value in zip(self.outer, values, strict=False)}

    def surface(self) -> Surface | None:
        """Look at the whole of the releases' grid, whatever the mode; None but for two settings."""
        if len(self.outer) != 1:
            return None
        low, high = self._low.filled, self._high.filled
        axes = {axis.setting: axis.grid() for axis in (*self.outer, self.inner)}
        accuracy = 100.0 * self._count_on_grid(low, high) / low.shape[1]
        return Surface(accuracy.astype(np.float32), axes)

    def _count_on_grid(
        self, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        inner = np.asarray(self.inner.grid())
        number = {point: row for row, point in enumerate(self.outer_values)}
        rows = [number[point] for point in self._grid()]
        return np.stack([_count(low[row], high[row], inner) for row in rows])

    def _best_of_grid(
        self, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> tuple[Point, float, int]:
        count = self._count_on_grid(low, high)
        row, column = np.unravel_index(count.argmax(), count.shape)
        return self._grid()[row], self.inner.grid()[column], int(count[row, column])

    def _grid(self) -> list[Point]:
        return _points([axis.grid() for axis in self.outer])

    def _best_of_all(
        self, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> tuple[Point, float, int]:
        best: tuple[int, float, Point, float] | None = None
        for outer, *rows in zip(self.outer_values, low, high, strict=True):
            right, inner, distance = self._best_inner(*rows)
            for setting, value in self._settings(outer).items():
                distance += math.log(value / self.default[setting]) ** 2
            if best is None or (-right, distance) < best[:2]:
                best = (-right, distance, outer, inner)
        assert best is not None
        return best[2], best[3], -best[0]

    def _best_inner(
        self, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> tuple[int, float, float]:
        """Find the best count, the inner value nearest the default that has it, and distance²."""
        default = self.default[self.inner.setting]
        right_at_default = int(_count(low, high, np.array([default]))[0])
        ends = np.concatenate([low, high])
        ends = ends[(ends > self.inner.low) & (ends < self.inner.high)]
        borders = np.unique(np.concatenate([ends, [self.inner.low, self.inner.high]]))
        # Between two neighbouring borders the count is constant: ask at the middle (in log).
        logs = np.log(borders)
        middle = np.exp((logs[:-1] + logs[1:]) / 2)
        count = _count(low, high, middle)
        right = int(count.max())
        if right_at_default >= right:
            return right_at_default, default, 0.0
        margin = MARGIN * np.diff(logs)
        nearest = np.clip(math.log(default), logs[:-1] + margin, logs[1:] - margin)
        distance = np.where(count == right, (nearest - math.log(default)) ** 2, np.inf)
        chosen = int(distance.argmin())
        return right, float(np.exp(nearest[chosen])), float(distance[chosen])


def _points(grids: Sequence[Sequence[float]]) -> list[Point]:
    """Give the points of a grid, the last axis fastest."""
    if not grids:
        return [NO_OUTER]
    return list(grids[0]) if len(grids) == 1 else list(itertools.product(*grids))


def _count(
    low: NDArray[np.float64], high: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Count the open intervals (low, high) that hold each value."""
    real = low < high
    opened = np.searchsorted(np.sort(low[real]), values, side="left")
    closed = np.searchsorted(np.sort(high[real]), values, side="right")
    return opened - closed


def search_from(mode: str, ranges: Mapping[str, Any], settings: Mapping[str, Any]) -> Search:
    """Build a search from a method's YAML.

    Args:
        mode: `exact` or `grid`.
        ranges: `inner` and perhaps `outer`, each the fields of a `Range` or of `Values`; `outer`
            may be a list of them.
        settings: the present values of the head's settings that may be searched.

    Raises:
        UserError: a range is empty, or belongs to a setting that the head does not search.
    """
    outer = ranges.get("outer") or []
    outer = [outer] if isinstance(outer, Mapping) else outer
    axes = [(Values if "values" in axis else Range)(**axis) for axis in (*outer, ranges["inner"])]
    for axis in axes:
        if axis.setting not in settings:
            raise UserError(
                f"method.search: {axis.setting} is no setting that this method searches: there is "
                f"{', '.join(settings) or 'none'}."
            )
    return Search(mode, axes[:-1], axes[-1], settings)
