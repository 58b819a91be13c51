"""Results as a table in the terminal, a row for each run."""

from collections.abc import Sequence

from rich.markup import escape
from rich.text import Text

from src.command_line import make_console, printable
from src.results.marks import explanations, marks
from src.results.metrics import ALL
from src.results.published import common_source, describe
from src.results.record import Result
from src.results.terminal import print_rows

CONDITIONS = ("dataset", "adapted on", "backbone", "shots", "seed", "selection")
WORDS = {"dataset", "adapted on", "backbone", "method", "selection"}


def show(results: Sequence[Result], title: str, labels: Sequence[str] | None = None) -> None:
    """Print one row per run; accuracies that are not comparable carry a mark.

    A condition that all runs share stands above the table, not in a column.

    Args:
        results: the runs.
        title: what they are.
        labels: what stands for the method of each, where methods do not tell them apart.
    """
    source = common_source(result.published_by_source for result in results)
    rows = [
        _row(result, label, source)
        for result, label in zip(
            results, labels or [result.method for result in results], strict=True
        )
    ]
    if not rows:
        return
    shared = [name for name in CONDITIONS if len({row[name] for row in rows}) == 1]
    columns = [name for name in rows[0] if name not in shared and any(row[name] for row in rows)]
    console = make_console()
    console.print(f"\n[bold]{escape(printable(title))}[/bold]", soft_wrap=True)
    above = [
        f"[dim]{name}[/dim] {escape(printable(rows[0][name]))}" for name in shared if rows[0][name]
    ]
    console.print("  ".join(above))
    cells = [
        {name: Text(row[name], "bold" if name == "accuracy" else "") for name in columns}
        for row in rows
    ]
    print_rows(cells, labels={*CONDITIONS, "method"}, words=WORDS)
    for meaning in explanations(" ".join(row["accuracy"] for row in rows)):
        console.print(meaning, highlight=False)
    if source is not None:
        console.print(f"published: {describe(source)}", highlight=False)


def _row(result: Result, label: str, source: str | None) -> dict[str, str]:
    """Format the cells of a run; a column that is empty for all runs is left out."""
    metrics = {one.heading: one.text(result.metrics.get(one.name)) for one in ALL}
    metrics["accuracy"] += marks(result)
    return {
        "dataset": result.dataset,
        "adapted on": "" if result.adapted_on == result.dataset else result.adapted_on,
        "backbone": result.backbone,
        "method": label,
        "shots": str(result.shots),
        "seed": str(result.seed),
        "selection": result.selection,
        **metrics,
        "validation": _optional(result.validation_accuracy),
        "zero-shot": _optional(result.zero_shot),
        "published": _optional(result.published_by_source.get(source or "")),
    }


def _optional(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2f}"
