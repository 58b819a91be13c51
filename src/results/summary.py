"""Many runs as a few numbers: mean and 95 % interval over seeds, the average over datasets."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from scipy.special import stdtrit

from src.results.marks import SIGNS, marks
from src.results.published import SOURCES, common_source

CONFIDENCE = 0.95
PLACE = ["backbone", "task", "label", "shots"]
TRANSFER = "→"
AVERAGE = "average"


class Cell(NamedTuple):
    """The accuracy (per cent) of one method on one dataset at one number of shots, over seeds.

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
            are not the dataset's own.
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


class Table(NamedTuple):
    """Cells by row (method) and column; None where there is no run."""

    title: str
    columns: list[str]
    rows: dict[str, list[Cell | None]]


def once_per_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep only the last run of each place (the columns of `PLACE`) and seed.

    A method that draws no images (0 shots) gives the same metrics for every seed, so its runs count
    as one run of seed 0.
    """
    keys = [*PLACE, "seed"]
    runs = frame.assign(seed=frame["seed"].where(frame["shots"] > 0, 0))
    latest = runs.sort_values("started_at", kind="stable").drop_duplicates(keys, keep="last")
    return runs[keys].drop_duplicates().merge(latest, on=keys)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Average the seeds of each place, then the datasets.

    The "average of n datasets" is the mean of the datasets' means, per backbone. It is given only
    for methods that were run on all n datasets at those shots. Its interval is that of the averages
    by seed, if every dataset has the same seeds. Heads that were adapted on another dataset stay
    out of it. All cells of all backbones are compared with the published accuracies of one source,
    that which has the figures of most cells.

    Args:
        frame: what `src.results.frame.load` returns.

    Returns:
        One row per place, in order of appearance, with the averages last. The columns are those of
        `PLACE`, and `cell`, a `Cell`.
    """
    runs = once_per_seed(frame)
    source = _source(runs)
    runs = runs.assign(published=published_by(runs, source))
    cells = [(*place, _cell(group, source)) for place, group in runs.groupby(PLACE, sort=False)]
    own = runs[~runs["task"].str.contains(TRANSFER)]
    for backbone, of_backbone in own.groupby("backbone", sort=False):
        n = of_backbone["task"].nunique()
        for (label, shots), group in of_backbone.groupby(["label", "shots"], sort=False):
            if n > 1 and group["task"].nunique() == n:
                cells.append(
                    (backbone, f"{AVERAGE} of {n} datasets", label, shots, _average(group, source))
                )
    return pd.DataFrame(cells, columns=[*PLACE, "cell"])


def by_shots(cells: pd.DataFrame) -> list[Table]:
    """Make a table per backbone and dataset, and for the average, with a column per shots."""
    return [
        _table(f"{task}, {backbone}: top-1 accuracy in % by shots", of_backbone[chosen], "shots")
        for backbone, of_backbone in cells.groupby("backbone", sort=False)
        for task in sorted(of_backbone["task"].unique(), key=_average_first)
        for chosen in [of_backbone["task"] == task]
    ]


def by_dataset(cells: pd.DataFrame) -> list[Table]:
    """Make a table per backbone and shots that several datasets have, with a column per dataset.

    A method that sees no labelled images (0 shots) has a row in each of them.
    """
    return [
        _table(f"{backbone}, shots={shots}: top-1 accuracy in % by dataset", group, "task")
        for backbone, of_backbone in cells.groupby("backbone", sort=False)
        for shots in sorted({*of_backbone["shots"]} - {0}) or [0]
        for group in [of_backbone[of_backbone["shots"].isin([0, shots])]]
        if group["task"].nunique() > 1
    ]


def half_width(accuracies: Sequence[float]) -> float | None:
    """Compute half the width of Student's 95 % interval of the mean; None for a single value."""
    n = len(accuracies)
    if n < 2:
        return None
    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return quantile * float(pd.Series(accuracies).std()) / math.sqrt(n)


def _cell(runs: pd.DataFrame, source: str | None) -> Cell:
    return Cell(
        mean=float(runs["accuracy"].mean()),
        interval=half_width(list(runs["accuracy"])),
        seeds=len(runs),
        **_published(runs["published"].mean(skipna=False), source),
        **_signs(runs),
        zero_shot=_mean_or_none(runs["zero_shot"]),
    )


def _average(runs: pd.DataFrame, source: str | None) -> Cell:
    by_seed = runs.pivot_table(index="seed", columns="task", values="accuracy")
    published = runs.groupby("task")["published"].mean(skipna=False)
    same_seeds = bool(by_seed.notna().all(axis=None))
    return Cell(
        mean=float(by_seed.mean().mean()),
        interval=half_width(list(by_seed.mean(axis=1))) if same_seeds else None,
        seeds=len(by_seed),
        **_published(published.mean(skipna=False), source),
        **_signs(runs),
        zero_shot=_mean_or_none(runs.groupby("task")["zero_shot"].mean()),
    )


def published_by(runs: pd.DataFrame, source: str | None) -> pd.Series:
    """Give the accuracy (per cent) that one source has published for each run.

    Args:
        runs: rows of the frame that `src.results.frame.load` returns.
        source: one of `SOURCES`, or None.

    Returns:
        A value per run, NaN where the source has none.
    """
    name = f"published_by_source.{source}"
    return runs[name].astype(float) if name in runs else pd.Series(math.nan, runs.index)


def _source(runs: pd.DataFrame) -> str | None:
    """Choose the source that has the figures of most cells, whatever the number of their seeds."""
    known = pd.DataFrame({source: published_by(runs, source).notna() for source in SOURCES})
    places = known.groupby([runs[name] for name in PLACE]).all()
    return common_source(places.columns[has] for has in places.to_numpy())


def _published(mean: float, source: str | None) -> dict[str, Any]:
    return {"published": None if math.isnan(mean) else float(mean), "source": source}


def _mean_or_none(values: pd.Series) -> float | None:
    mean = values.mean(skipna=False)
    return None if math.isnan(mean) else float(mean)


def _signs(runs: pd.DataFrame) -> dict[str, Any]:
    return {name: name in runs and bool(runs[name].any()) for name in SIGNS}


def _average_first(task: str) -> bool:
    return not task.startswith(AVERAGE)


def _table(title: str, cells: pd.DataFrame, across: str) -> Table:
    found = dict(zip(zip(cells["label"], cells[across], strict=True), cells["cell"], strict=True))
    columns = sorted(cells[across].unique(), key=None if across == "shots" else _average_first)
    rows = {
        label: [found.get((label, column)) for column in columns]
        for label in cells["label"].unique()
    }
    return Table(title, [str(column) for column in columns], rows)
