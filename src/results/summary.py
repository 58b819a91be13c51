"""Many runs as a few numbers: mean and 95 % interval over seeds, the average over datasets."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from src.results.marks import SIGNS, marks
from src.results.protocols import BASE, HARMONIC, NEW, harmonic_mean, reading
from src.results.published import SOURCES, common_source

CONFIDENCE = 0.95
PLACE = ["protocol", "backbone", "task", "label", "shots"]
TRANSFER = "→"
AVERAGE = "average"
ANY = None
"""In place of a seed: a method that draws nothing by it has the same accuracy for each."""
PUBLISHED = {
    "accuracy": "published_by_source",
    BASE: "published_by_source",
    NEW: "published_new_by_source",
}
"""What the frame's columns of published figures begin with, by metric."""
ZERO_SHOT = ("accuracy", BASE)
"""The metrics that the record has of zero-shot CLIP as well."""


class Cell(NamedTuple):
    """The accuracy (per cent) of one method on one dataset at one number of shots, over seeds.

    By the protocols of imbalanced support sets it is the mean accuracy of the classes; by
    `base_to_new` it is H.

    Attributes:
        mean: over the seeds.
        interval: half the width of its 95 % interval; None for a single seed.
        seeds: how many there are.
        published: the published accuracy, by the one source that all cells are compared with.
        source: that source.
        selected_on_test: true of one seed at least, as the following.
        saw_test_images: see `Result`.
        partial_test: see `Result`.
        validation_free: see `Result`.
        zero_shot: the mean accuracy (per cent) of zero-shot CLIP with the same prompts, where those
            are not the dataset's own, or the test images were seen.
        balance: how many images a class has among those that the method saw together, dataset by
            dataset, as `eurosat 500; dtd 36 to 40`; empty if it saw none.
        parts: what H is of, by the metric's name.
        by_seed: the accuracy for each seed, over which `mean` is the mean; under `ANY` where none
            was needed. Of several datasets, only for seeds that all of them have.
    """

    mean: float
    interval: float | None
    seeds: int
    published: float | None
    source: str | None
    selected_on_test: bool
    saw_test_images: bool
    partial_test: bool
    validation_free: bool = False
    zero_shot: float | None = None
    balance: str = ""
    parts: Mapping[str, "Cell"] = {}
    by_seed: Mapping[int | None, float] = {}

    @property
    def difference(self) -> float | None:
        """Points above the published accuracy."""
        return None if self.published is None else self.mean - self.published

    @property
    def marks(self) -> str:
        """The signs that stand beside the accuracy."""
        return marks(self)

    def __str__(self) -> str:
        spread = "" if self.interval is None else f" ± {self.interval:.2f}"
        beside = "" if self.difference is None else f" ({self.difference:+.2f})"
        zero_shot = "" if self.zero_shot is None else f" [{self.zero_shot:.2f}]"
        return f"{self.mean:.2f}{self.marks}{spread}{beside}{zero_shot}"


def without_needless_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Write 0 for the seed of each run that draws nothing by it."""
    return frame.assign(seed=frame["seed"].where(_drawn(frame), 0))


def _drawn(runs: pd.DataFrame) -> pd.Series:
    return (runs["shots"] > 0) | (runs["passes"] > 0)


def once_per_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep only the last run of each place (the columns of `PLACE`) and seed.

    A method that draws no images (0 shots), nor any order or task of the test images, gives the
    same metrics for every seed, so its runs count as one run of seed 0.
    """
    keys = [*PLACE, "seed"]
    runs = without_needless_seeds(frame)
    latest = runs.sort_values("started_at", kind="stable").drop_duplicates(keys, keep="last")
    return runs[keys].drop_duplicates().merge(latest, on=keys)


def compared(runs: pd.DataFrame) -> pd.Series:
    """Give what each run is compared by, in per cent; NaN where its record lacks it.

    Args:
        runs: rows of the frame that `src.results.frame.load` returns.
    """
    names = runs["protocol"].map(lambda protocol: reading(protocol).metric)
    values = pd.Series(math.nan, runs.index)
    for name in set(names) & set(runs):
        values = values.where(names != name, runs[name])
    return values


def alike(runs: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Gather the runs over whose datasets an average is taken.

    Args:
        runs: those of one protocol.

    Yields:
        The backbone; the dataset that all were adapted to, if they were tested on others, else
        empty; and the runs.
    """
    elsewhere = reading(runs["protocol"].iloc[0]).elsewhere
    chosen = runs[runs["task"].str.contains(TRANSFER) == elsewhere]
    for backbone, group in chosen.groupby("backbone", sort=False):
        if not elsewhere:
            yield str(backbone), "", group
            continue
        for adapted_on, of_source in group.groupby("adapted_on", sort=False):
            yield str(backbone), str(adapted_on), of_source


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Average the seeds of each place, then the datasets.

    The "average of n datasets" is the mean of the datasets' means, per protocol and backbone. It is
    given only for methods that were run on all n datasets at those shots. Its interval is that of
    the averages by seed, if every dataset has the same seeds. Heads that were adapted on another
    dataset stay out of it; by the protocols that test on others, it is theirs. All cells of a
    protocol are compared with the published accuracies of one source, that which has the figures of
    most cells.

    Args:
        frame: what `src.results.frame.load` returns.

    Returns:
        One row per place, by protocol, in order of appearance, with the averages last. The columns
        are those of `PLACE`, and `cell`, a `Cell`. Runs whose record lacks what they are compared
        by have no place.
    """
    runs = once_per_seed(frame[compared(frame).notna()])
    by_protocol = runs.groupby("protocol", sort=False)
    cells = [cell for name, group in by_protocol for cell in _summarise(str(name), group)]
    return pd.DataFrame(cells, columns=[*PLACE, "cell"])


def _summarise(protocol: str, runs: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    source = _source(runs)
    for place, group in runs.groupby(PLACE, sort=False):
        yield *place, _cell(group, source)
    for backbone, adapted_on, of_backbone in alike(runs):
        n = of_backbone["task"].nunique()
        place = f"{AVERAGE} of {n} datasets"
        task = f"{adapted_on} {TRANSFER} {place}" if adapted_on else place
        for (label, shots), group in of_backbone.groupby(["label", "shots"], sort=False):
            if n > 1 and group["task"].nunique() == n:
                yield protocol, backbone, task, label, shots, _cell(group, source)


def at_shots(rows: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """Give the rows of each number of shots, with those of methods that see no labelled image."""
    for shots in sorted({*rows["shots"]} - {0}) or [0]:
        yield shots, rows[rows["shots"].isin([0, shots])]


def half_width(accuracies: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Compute half the width of Student's 95 % interval of the mean; None for a single value."""
    n = len(accuracies)
    if n < 2:
        return None
    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return quantile * float(np.std(accuracies, ddof=1)) / math.sqrt(n)


def _cell(runs: pd.DataFrame, source: str | None) -> Cell:
    """Average the runs of a method at a number of shots: the seeds of each dataset, then these."""
    metrics = reading(runs["protocol"].iloc[0]).metrics
    parts = {metric: _average(runs, metric, source) for metric in metrics if metric != HARMONIC}
    if HARMONIC not in metrics:
        (cell,) = parts.values()
        return cell
    base, new = parts.values()
    of_seeds = harmonic_mean(*(_by_seed(runs, metric).mean(axis=1) for metric in parts))
    published = math.nan
    if base.published is not None and new.published is not None:
        published = harmonic_mean(base.published, new.published)
    return base._replace(
        mean=float(harmonic_mean(base.mean, new.mean)),
        interval=None if base.interval is None else half_width(of_seeds),
        **_published(published, source),
        zero_shot=None,
        parts=parts,
        by_seed=_of_seeds(runs, of_seeds),
    )


def _average(runs: pd.DataFrame, metric: str, source: str | None) -> Cell:
    by_seed = _by_seed(runs, metric)
    same_seeds = not np.isnan(by_seed).any()
    zero_shot = _over_datasets(runs, runs["zero_shot"]) if metric in ZERO_SHOT else math.nan
    return Cell(
        mean=float(np.nanmean(by_seed, axis=0).mean()),
        interval=half_width(by_seed.mean(axis=1)) if same_seeds else None,
        seeds=len(by_seed),
        **_published(_over_datasets(runs, published_by(runs, source, metric)), source),
        **_signs(runs),
        zero_shot=_or_none(zero_shot),
        balance=_balance(runs),
        by_seed=_of_seeds(runs, by_seed.mean(axis=1)),
    )


def _of_seeds(runs: pd.DataFrame, values: NDArray[np.float64]) -> dict[int | None, float]:
    """Give the value of each seed that all datasets have."""
    if not _drawn(runs).any():
        return {ANY: float(values[0])}
    seeds = runs["seed"].unique()
    found = zip(seeds, values, strict=True)
    return {int(seed): float(value) for seed, value in found if not math.isnan(value)}


def _balance(runs: pd.DataFrame) -> str:
    seen = runs[runs["balance"] != ""]
    return "; ".join(dict.fromkeys(seen["task"] + " " + seen["balance"]))


def _by_seed(runs: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """Arrange a metric as `[seeds, datasets]`; NaN where there is no run."""
    (seeds, row), (tasks, column) = (_numbered(runs[name]) for name in ("seed", "task"))
    table = np.full((seeds, tasks), math.nan)
    table[row, column] = runs[metric]
    return table


def _over_datasets(runs: pd.DataFrame, values: pd.Series) -> float:
    """Average over the runs of each dataset, then over these; NaN where a run has no value."""
    _, dataset = _numbered(runs["task"])
    sums = np.bincount(dataset, values.to_numpy(float))
    return float((sums / np.bincount(dataset)).mean())


def _numbered(values: pd.Series) -> tuple[int, NDArray[np.int64]]:
    """Count the different values, and number them."""
    numbers, different = pd.factorize(values)
    return len(different), numbers


def published_by(runs: pd.DataFrame, source: str | None, metric: str = "accuracy") -> pd.Series:
    """Give the accuracy (per cent) that one source has published for each run.

    Args:
        runs: rows of the frame that `src.results.frame.load` returns, of one protocol.
        source: one of `SOURCES`, or None.
        metric: what the accuracy is of.

    Returns:
        A value per run, NaN where the source has none.
    """
    if metric == HARMONIC:
        return harmonic_mean(*(published_by(runs, source, one) for one in (BASE, NEW)))
    name = f"{PUBLISHED.get(metric)}.{source}"
    return runs[name].astype(float) if name in runs else pd.Series(math.nan, runs.index)


def _source(runs: pd.DataFrame) -> str | None:
    """Choose the source that has the figures of most cells, whatever the number of their seeds."""
    metric = reading(runs["protocol"].iloc[0]).metrics[0]
    known = pd.DataFrame({one: published_by(runs, one, metric).notna() for one in SOURCES})
    places = known.groupby([runs[name] for name in PLACE]).all()
    return common_source(places.columns[has] for has in places.to_numpy())


def _published(mean: float, source: str | None) -> dict[str, Any]:
    return {"published": _or_none(mean), "source": source}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _signs(runs: pd.DataFrame) -> dict[str, Any]:
    return {name: name in runs and bool(runs[name].any()) for name in SIGNS}
