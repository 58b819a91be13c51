"""Methods compared with one another over datasets, each pair on the seeds that both have.

The tests are those that Demšar (JMLR 7, 2006) recommends for two classifiers on several datasets:
Wilcoxon's signed-rank test, here of every pair, with Holm's correction for their number. Imports no
torch.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.results.marks import marks
from src.results.protocols import in_words
from src.results.summary import ANY, alike, at_shots, compared, half_width, once_per_seed

LEVEL = 0.05
DECIMALS = 4
"""To so many decimals of a per cent differences are told apart: a record's accuracies are float32,
and one image in a hundred thousand counts ten times as much."""
NOT_COMPARED = ("selected_on_test", "partial_test")
"""What keeps a method out, by the record's attributes."""

Scores = Mapping[str, Mapping[int | None, float]]
"""What a method is compared by, in per cent, by dataset and seed."""


class Difference(NamedTuple):
    """By how much one method surpasses another on one dataset, over the seeds that both have.

    Attributes:
        mean: in points of per cent.
        interval: half the width of its 95 % interval (Student's t), None for a single seed.
        seeds: how many there are.
    """

    mean: float
    interval: float | None
    seeds: int


class Pair(NamedTuple):
    """Two methods.

    Attributes:
        first: the one that is better on average, by its rank.
        second: the other one.
        differences: how much better the first one is, by dataset.
        p: of Wilcoxon's signed-rank test over the datasets, two-sided; None if they are fewer than
            `needed(1)`.
        corrected: the same after Holm's correction for the number of pairs.
    """

    first: str
    second: str
    differences: Mapping[str, Difference]
    p: float | None = None
    corrected: float | None = None

    @property
    def means(self) -> list[float]:
        """The differences, each rounded to what tells accuracies apart."""
        return [round(one.mean, DECIMALS) for one in self.differences.values()]

    @property
    def mean(self) -> float:
        """Their mean, in points of per cent."""
        return float(np.mean([one.mean for one in self.differences.values()]))

    @property
    def outcomes(self) -> tuple[int, int, int]:
        """On how many datasets the first method wins, ties and loses."""
        signs = Counter(np.sign(self.means))
        return signs[1], signs[0], signs[-1]


class Comparison(NamedTuple):
    """Methods at one number of shots, with those that see no labelled image.

    Attributes:
        protocol: that of all runs.
        backbone: that of all runs.
        adapted_on: the dataset that all were adapted to, where they were tested on others, else
            empty.
        shots: labelled images per class.
        datasets: those that all methods were run on.
        ranks: the average rank of each method, 1 for the best; methods that tie share their ranks.
            The lowest comes first.
        ranked: on how many datasets: those where all methods have a seed in common.
        pairs: every two methods that have a seed in common on a dataset.
        left_out: why other methods are not compared, by their label.
    """

    protocol: str
    backbone: str
    adapted_on: str
    shots: int
    datasets: Sequence[str]
    ranks: Mapping[str, float]
    ranked: int
    pairs: Sequence[Pair]
    left_out: Mapping[str, str]

    @property
    def title(self) -> str:
        """What is compared."""
        adapted_on = f"adapted to {self.adapted_on}" if self.adapted_on else ""
        place = [self.backbone, in_words(self.protocol), adapted_on, f"shots={self.shots}"]
        return ", ".join(filter(None, place))

    @property
    def groups(self) -> list[list[str]]:
        """The methods that are joined: neighbours by rank, no two of which differ at `LEVEL`.

        Only the longest are given, of two methods or more. There are none where the datasets are
        too few for any pair to differ.
        """
        if len(self.datasets) < needed(len(self.pairs)):
            return []
        differ = {
            frozenset((one.first, one.second))
            for one in self.pairs
            if one.corrected is not None and one.corrected < LEVEL
        }
        return neighbours(list(self.ranks), differ)


def compare(frame: pd.DataFrame) -> list[Comparison]:
    """Compare the methods of each protocol, backbone and number of shots.

    Compared are those that were run on the same datasets: on those that most were run on. Runs
    whose settings were chosen on the test split, or that tested a part of it, are not compared.

    Args:
        frame: what `src.results.frame.load` returns.

    Returns:
        Those with at least two methods, and two datasets or two seeds.
    """
    runs = once_per_seed(frame.assign(compared=compared(frame)))
    runs = runs[runs["compared"].notna()]
    return [
        found
        for protocol, of_protocol in runs.groupby("protocol", sort=False)
        for backbone, adapted_on, group in alike(of_protocol)
        for shots, at in at_shots(group)
        if (found := _compare((str(protocol), backbone, adapted_on, shots), at)) is not None
    ]


def _compare(place: tuple[str, str, str, int], runs: pd.DataFrame) -> Comparison | None:
    left_out: dict[str, str] = {}
    scores: dict[str, Scores] = {}
    for label, of_method in runs.groupby("label", sort=False):
        named = f"{label}{marks(*of_method.itertuples())}"
        if of_method[[*NOT_COMPARED]].any(axis=None):
            left_out[named] = "not comparable"
        else:
            scores[named] = _scores(of_method)
    datasets = common_datasets([set(one) for one in scores.values()])
    for label in [label for label, one in scores.items() if not datasets <= set(one)]:
        missing = sorted(datasets - set(scores.pop(label)))
        left_out[label] = f"not run on {', '.join(missing)}"
    if len(scores) < 2:
        return None
    ordered = [task for task in runs["task"].unique() if task in datasets]
    scores = {label: {task: one[task] for task in ordered} for label, one in scores.items()}
    ranks, ranked = average_ranks(scores)
    pairs = tested([
        Pair(first, second, differences)
        for first, second in combinations(ranks or scores, 2)
        if (differences := _differences(scores[first], scores[second]))
    ])  # fmt: skip
    several = len(datasets) > 1 or any(
        one.seeds > 1 for pair in pairs for one in pair.differences.values()
    )
    if not pairs or not several:
        return None
    return Comparison(*place, ordered, ranks, ranked, pairs, left_out)


def _scores(runs: pd.DataFrame) -> Scores:
    found: dict[str, dict[int | None, float]] = {}
    for task, seed, shots, score in zip(
        runs["task"], runs["seed"], runs["shots"], runs["compared"], strict=True
    ):
        found.setdefault(task, {})[int(seed) if shots else ANY] = float(score)
    return found


def common_datasets(of_methods: Sequence[set[str]]) -> set[str]:
    """Choose the datasets on which methods are compared, given those of each method.

    Returns:
        What most methods were run on and nothing else, if a second one was run on all of it. Of
        equals, the larger set, and then the one that comes first by name; empty if there is none.
    """
    frequency = Counter(frozenset(one) for one in of_methods)
    shared = [one for one in frequency if sum(one <= other for other in of_methods) > 1]
    order = sorted(shared, key=lambda one: (-frequency[one], -len(one), sorted(one)))
    return set(order[0]) if order else set()


def _differences(first: Scores, second: Scores) -> dict[str, Difference]:
    found = {}
    for dataset in first:
        pairs = list(paired([first[dataset], second[dataset]]))
        if pairs:
            differences = [one - other for one, other in pairs]
            mean = float(np.mean(differences))
            found[dataset] = Difference(mean, half_width(differences), len(differences))
    return found


def paired(of_methods: Sequence[Mapping[int | None, float]]) -> Iterator[list[float]]:
    """Give the methods' scores on a dataset for each seed that all of them have."""
    drawn = [set(scores) for scores in of_methods if ANY not in scores]
    seeds: set[int | None] = set.intersection(*drawn) if drawn else {ANY}
    for seed in sorted(seeds, key=lambda one: -1 if one is None else one):
        yield [scores[ANY if ANY in scores else seed] for scores in of_methods]


def average_ranks(scores: Mapping[str, Scores]) -> tuple[dict[str, float], int]:
    """Average the ranks of methods over datasets.

    On a dataset, methods are ranked by their means over the seeds that all of them have.

    Args:
        scores: those of each method, which all have the same datasets.

    Returns:
        The average rank by method, the lowest first, and on how many datasets. Nothing if no
        dataset has a seed that all methods have.
    """
    datasets = list(next(iter(scores.values()), {}))
    ranks = []
    for dataset in datasets:
        seeds = list(paired([one[dataset] for one in scores.values()]))
        if seeds:
            means = pd.Series(np.round(np.mean(seeds, axis=0), DECIMALS))
            ranks.append(means.rank(ascending=False))
    if not ranks:
        return {}, 0
    averages = zip(scores, map(float, np.mean(ranks, axis=0)), strict=True)
    return dict(sorted(averages, key=lambda one: one[1])), len(ranks)


def tested(pairs: Sequence[Pair]) -> list[Pair]:
    """Test every pair that has enough datasets, and correct for the number of tests."""
    found = [pair._replace(p=signed_rank(pair.means)) for pair in pairs]
    corrected = iter(holm([pair.p for pair in found if pair.p is not None]))
    return [pair if pair.p is None else pair._replace(corrected=next(corrected)) for pair in found]


def signed_rank(differences: Sequence[float]) -> float | None:
    """Compute the two-sided p of Wilcoxon's signed-rank test (Biometrics Bulletin 1, 1945).

    Differences of zero are left out, and those of the same size share their ranks. The p is exact:
    by the distribution of the sum of ranks over all signs that the others could have had.

    Returns:
        p, 1 if all differences are zero; None for fewer than `needed(1)` differences.
    """
    if len(differences) < needed(1):
        return None
    others = np.array([one for one in differences if one])
    _, size, equal = np.unique(np.abs(others), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(equal) - equal + 1)[size]  # ranks that are shared may be halves
    ways = np.ones(1)  # ways[s]: in how many ways signs give the sum s
    for rank in doubled:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    observed = int(doubled[others > 0].sum())
    least = min(ways[: observed + 1].sum(), ways[observed:].sum())
    return min(1.0, float(2 * least / ways.sum()))


def needed(pairs: int) -> int:
    """Count the datasets without which Wilcoxon's test finds no difference at `LEVEL`.

    Its least p on n datasets is 2 / 2^n, which Holm's correction multiplies by the number of
    `pairs`, 1 or more.
    """
    return math.ceil(1 + math.log2(pairs / LEVEL))


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected = np.empty(len(p))
    highest = 0.0
    for place, number in enumerate(np.argsort(p, kind="stable")):
        highest = max(highest, min(1.0, (len(p) - place) * p[number]))
        corrected[number] = highest
    return [float(one) for one in corrected]


def neighbours(order: Sequence[str], differ: set[frozenset[str]]) -> list[list[str]]:
    """Join neighbours of an order no two of which are a pair in `differ`.

    Returns:
        Groups of two or more, none of which is part of another.
    """
    groups: list[list[str]] = []
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and not any(
            frozenset((order[end], one)) in differ for one in order[start:end]
        ):
            end += 1
        group = list(order[start:end])
        if len(group) > 1 and not (groups and group[-1] in groups[-1]):
            groups.append(group)
    return groups
