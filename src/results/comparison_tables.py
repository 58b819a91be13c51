"""Comparisons of methods as text: what `src.results.comparison` found, for a page and as CSV."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from src.results.comparison import LEVEL, Comparison, Difference, Pair, needed
from src.results.critical_difference import friedman, nemenyi
from src.results.formats import spreadsheet
from src.results.marks import SIGNS_WRITTEN
from src.results.names import shown

ABOUT = (
    "Each two methods are compared on the seeds that both have, and each dataset counts once. "
    "Differences are those of the first method to the second, in points of per cent; their mean is "
    "over the datasets, and ± is half the 95 % interval over the seeds on one of them (Student's "
    "t). p is that of Wilcoxon's signed-rank test over the datasets, two-sided, and then with "
    "Holm's correction for the number of pairs. The first method won, tied and lost on so many "
    "datasets. Ranks are averaged over them; 1 is the best."
)
COLUMNS = (
    "protocol", "backbone", "adapted_on", "shots", "first", "second", "dataset", "difference",
    "interval", "seeds", "wins", "ties", "losses", "p", "p_holm",
)  # fmt: skip


class Text(NamedTuple):
    """A table of texts.

    Attributes:
        title: what it lists.
        rows: texts by heading, a row each; the first column says what a row is.
        places: what each row is about, by the filters of a page; empty if none can be filtered.
        datasets: the headings that are datasets.
    """

    title: str
    rows: list[dict[str, str]]
    places: Sequence[Mapping[str, str]] = ()
    datasets: Sequence[str] = ()


def ranks(comparison: Comparison) -> Text:
    """Make the table of average ranks; without rows where a single dataset was ranked."""
    ranked = comparison.ranks if comparison.ranked > 1 else {}
    rows = [
        {"method": shown(label), "average rank": f"{rank:.2f}"} for label, rank in ranked.items()
    ]
    places = [{"method": label.rstrip(SIGNS_WRITTEN)} for label in ranked]
    return Text(f"Average ranks on {comparison.ranked} datasets", rows, places)


def pairs(comparison: Comparison) -> Text:
    """Make the table of pairs, with a column per dataset at the end."""
    several = len(comparison.datasets) > 1
    tested = any(pair.p is not None for pair in comparison.pairs)
    rows = []
    for pair in comparison.pairs:
        row = {"methods": f"{shown(pair.first)} − {shown(pair.second)}"}
        if several:
            row["mean"] = signed(pair.mean)
        if tested:
            row |= {"p": _p(pair.p), "p (Holm)": _p(pair.corrected)}
        if several:
            row["won, tied, lost"] = "/".join(map(str, pair.outcomes))
        row |= {name: _difference(pair.differences.get(name)) for name in comparison.datasets}
        rows.append(row)
    places = [
        {"method": pair.first.rstrip(SIGNS_WRITTEN), "other": pair.second.rstrip(SIGNS_WRITTEN)}
        for pair in comparison.pairs
    ]
    title = f"{len(rows)} pairs" if len(rows) > 1 else "1 pair"
    return Text(title, rows, places, list(comparison.datasets) if several else ())


def notes(comparison: Comparison) -> list[str]:
    """Say what a comparison cannot, and which methods have no part in it."""
    found = []
    datasets, count = len(comparison.datasets), len(comparison.pairs)
    lacking = needed(1) - datasets
    if lacking > 0:
        more = f"{lacking} more dataset{'s are' if lacking > 1 else ' is'}"
        found.append(f"No p: {more} needed for Wilcoxon's test to find any difference.")
    elif datasets < needed(count):
        found.append(
            f"On fewer than {needed(count)} datasets, Holm's correction for {count} pairs leaves "
            f"no p below {LEVEL}, whatever the differences: it says nothing here."
        )
    if comparison.left_out:
        out = [f"{shown(label)} ({why})" for label, why in comparison.left_out.items()]
        found.append(f"Left out: {', '.join(out)}.")
    return found


def overall(comparison: Comparison) -> list[str]:
    """Give the tests over all methods, on as many datasets as a pair needs."""
    difference = critical_difference(comparison)
    if difference is None:
        return []
    p = friedman(list(comparison.ranks.values()), comparison.ranked)
    return [
        f"Friedman's test of whether all methods rank alike: p {'' if p < 0.001 else '= '}{_p(p)}. "
        f"Nemenyi's critical difference of two average ranks (CD) is {difference:.2f}. The bars go "
        "by the tests of the pairs, which do not depend on what else was ranked."
    ]


def critical_difference(comparison: Comparison) -> float | None:
    """Give Nemenyi's, of three methods or more on as many datasets as a pair needs for a p."""
    if len(comparison.ranks) < 3 or comparison.ranked < needed(1):
        return None
    return nemenyi(len(comparison.ranks), comparison.ranked)


def caption(comparison: Comparison) -> str:
    """Say what the average-rank diagram of a comparison shows."""
    title = f"{comparison.title}: average ranks on {comparison.ranked} datasets, 1 is the best."
    if len(comparison.datasets) < needed(len(comparison.pairs)):
        return f"{title} No methods are joined, for the datasets are too few to tell any apart."
    return (
        f"{title} A bar joins neighbours no two of which differ: Wilcoxon's signed-rank test of "
        f"each pair, with Holm's correction for {len(comparison.pairs)} pairs, p ≥ {LEVEL}."
    )


def csv(comparisons: Sequence[Comparison]) -> str:
    """Write a line per pair over all datasets, where `dataset` is empty, and one for each."""
    rows = [
        {
            "protocol": one.protocol, "backbone": one.backbone, "adapted_on": one.adapted_on,
            "shots": one.shots, "first": pair.first, "second": pair.second, **line,
        }
        for one in comparisons
        for pair in one.pairs
        for line in _lines(pair)
    ]  # fmt: skip
    return spreadsheet(pd.DataFrame(rows, columns=list(COLUMNS)))


def _lines(pair: Pair) -> Iterator[dict[str, Any]]:
    wins, ties, losses = pair.outcomes
    yield {
        "dataset": "", "difference": pair.mean, "wins": wins, "ties": ties, "losses": losses,
        "p": pair.p, "p_holm": pair.corrected,
    }  # fmt: skip
    for dataset, one in pair.differences.items():
        yield {
            "dataset": dataset, "difference": one.mean, "interval": one.interval,
            "seeds": one.seeds,
        }  # fmt: skip


def _difference(one: Difference | None) -> str:
    if one is None:
        return ""
    return signed(one.mean) + ("" if one.interval is None else f" ± {one.interval:.2f}")


def signed(points: float) -> str:
    """Write a difference with its sign, a minus as wide as a plus."""
    return f"{points:+.2f}".replace("-", "−")


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
