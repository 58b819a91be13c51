from types import SimpleNamespace

import pytest

from benchmarks.__main__ import as_markdown, names
from benchmarks.side_by_side import Figure, take_turns


def test_ways_take_turns_and_the_median_of_the_ratios_counts(monkeypatch):
    order, clock = [], iter([0, 1, *(0, 1, 1, 4), *(10, 12, 12, 14), *(20, 21, 21, 41)])
    watch = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("benchmarks.side_by_side.time", watch)
    turns = take_turns(
        rounds=3, ours=lambda: order.append("ours"), plain=lambda: order.append("plain")
    )
    assert order == ["ours", "plain"] * 4  # the first round does not count
    assert turns.seconds == {"ours": [1, 2, 1], "plain": [3, 2, 20]}
    assert turns.median("ours") == 1
    assert turns.ratio("plain") == 3


@pytest.mark.parametrize(
    ("value", "target", "at_least", "reached"),
    [(2, 2, True, True), (1.9, 2, True, False), (1.9, 2, False, True), (9, None, True, True)],
)
def test_a_missed_target_is_said(value, target, at_least, reached):
    figure = Figure("search", "1 s", "2 s", value, target, at_least)
    assert figure.reached == reached
    assert ("MISSED" in as_markdown([figure])) == (not reached)


def test_every_benchmark_is_found():
    assert {"calip_scoring", "sweep", "extraction"} <= set(names())
    assert "machine" not in names()
