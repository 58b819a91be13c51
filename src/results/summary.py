"""Many runs as one table: method by shots, mean and 95 % interval over seeds."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from src.results.record import Result
from src.results.table import DAGGER, NOT_COMPARABLE

CONFIDENCE = 0.95


class Cell(NamedTuple):
    """The accuracy (per cent) of one method at one number of shots, over seeds."""

    mean: float
    interval: float | None  # half-width; None for a single seed
    seeds: int
    selected_on_test: bool

    def __str__(self) -> str:
        spread = "" if self.interval is None else f" ± {self.interval:.2f}"
        return f"{self.mean:.2f}{DAGGER if self.selected_on_test else ''}{spread}"


class Summary(NamedTuple):
    """The runs of one dataset and backbone. Zero-shot methods stand at 0 shots."""

    dataset: str
    adapted_on: str
    backbone: str
    methods: list[str]
    shots: list[int]
    cells: dict[tuple[str, int], Cell]

    @property
    def title(self) -> str:
        elsewhere = "" if self.adapted_on == self.dataset else f" (adapted on {self.adapted_on})"
        return f"{self.dataset}{elsewhere}, {self.backbone}: top-1 accuracy in % by shots"


def summarise(results: Sequence[Result]) -> list[Summary]:
    """Group runs by dataset and backbone, and average the seeds, in order of appearance.

    A method without a draw of images gives the same figure for every seed: it counts once.
    """
    groups: dict[tuple[str, str, str], dict[tuple[str, int], dict[int, Result]]] = {}
    for result in results:
        runs = groups.setdefault((result.dataset, result.adapted_on, result.backbone), {})
        seed = result.seed if result.shots else 0
        runs.setdefault((_label(result, results), result.shots), {})[seed] = result
    return [
        Summary(
            *group,
            list(dict.fromkeys(method for method, _ in runs)),
            sorted({shots for _, shots in runs}),
            {place: _cell(list(by_seed.values())) for place, by_seed in runs.items()},
        )
        for group, runs in groups.items()
    ]


def markdown(summaries: Sequence[Summary]) -> str:
    """Write the tables in Markdown."""
    lines = []
    for summary in summaries:
        header = ["method", *map(str, summary.shots)]
        lines += [f"{summary.title}", "", _line(header), _line(["---"] * len(header))]
        lines += [_line([method, *_row(summary, method)]) for method in summary.methods]
        lines += [""]
    if any(cell.selected_on_test for summary in summaries for cell in summary.cells.values()):
        lines += [NOT_COMPARABLE, ""]
    return "\n".join(lines)


def show(summaries: Sequence[Summary]) -> None:
    """Print the tables in the terminal."""
    console = Console()
    for summary in summaries:
        console.print(f"\n[bold]{summary.title}[/bold]")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
        table.add_column("method", no_wrap=True)
        for shots in summary.shots:
            table.add_column(str(shots), justify="right", no_wrap=True)
        for method in summary.methods:
            table.add_row(method, *(cell.replace(" ± ", "±") for cell in _row(summary, method)))
        console.print(table)
    if any(cell.selected_on_test for summary in summaries for cell in summary.cells.values()):
        console.print(NOT_COMPARABLE)


def _label(result: Result, results: Sequence[Result]) -> str:
    """Name the row: the method, and how it chose its settings if the runs differ in that."""
    ways = {other.selection for other in results if other.method == result.method}
    return result.method if len(ways) == 1 else f"{result.method} ({result.selection})"


def _cell(runs: Sequence[Result]) -> Cell:
    accuracies = [run.accuracy for run in runs]
    interval = None
    if len(runs) > 1:
        from scipy.stats import t

        quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(runs) - 1))
        interval = quantile * stdev(accuracies) / math.sqrt(len(runs))
    chosen_on_test = any(run.selected_on_test for run in runs)
    return Cell(mean(accuracies), interval, len(runs), chosen_on_test)


def _row(summary: Summary, method: str) -> list[str]:
    cells = (summary.cells.get((method, shots)) for shots in summary.shots)
    return ["" if cell is None else str(cell) for cell in cells]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
