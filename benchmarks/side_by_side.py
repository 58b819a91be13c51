"""Two ways to the same result that take turns, and a value beside its target."""

import statistics
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

ROUNDS = 5


class Figure(NamedTuple):
    """One line of the table.

    Attributes:
        what: is measured, with its size.
        ours: our absolute figure, with its unit.
        plain: that of the plain implementation, empty if there is none.
        value: what the target is about: a ratio, seconds, bytes.
        target: to reach or to keep below; None for a figure that is told only.
        at_least: whether `value` has to reach the target, rather than to keep below it.
        limit: the share of what the hardware can do, in words, empty if it was not measured.
    """

    what: str
    ours: str
    plain: str
    value: float
    target: float | None
    at_least: bool = True
    limit: str = ""

    @property
    def reached(self) -> bool:
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target

    @property
    def verdict(self) -> str:
        """The value beside its target."""
        if self.target is None:
            return f"{self.value:,.3g}"
        sign = "≥" if self.at_least else "≤"
        return f"{self.value:,.3g} ({sign} {self.target:g}{'' if self.reached else ': MISSED'})"

    def cells(self) -> tuple[str, ...]:
        """Give a line of a table."""
        return self.what, self.ours, self.plain, self.verdict, self.limit


class Turns(NamedTuple):
    """Seconds of every way in every round, and what each returned last."""

    seconds: Mapping[str, list[float]]
    results: Mapping[str, Any]

    def median(self, way: str) -> float:
        """Return the seconds that a way takes: the median of its rounds."""
        return statistics.median(self.seconds[way])

    def ratio(self, way: str, ours: str = "ours") -> float:
        """Return how many times as long as ours a way takes: the median of the rounds' ratios."""
        pairs = zip(self.seconds[way], self.seconds[ours], strict=True)
        return statistics.median(other / own for other, own in pairs)


def take_turns(rounds: int = ROUNDS, **ways: Callable[[], Any]) -> Turns:
    """Run the ways one after the other, round by round, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for number in range(-1, rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            results[name] = way()
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
    return Turns(seconds, results)


def measure(name: str) -> list[Figure]:
    """Run the benchmark of a name, all of it."""
    return list(import_module(f"benchmarks.{name}").figures())
