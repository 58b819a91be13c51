"""Results as a table in the terminal, a row for each run."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from src.results.marks import explanations, marks
from src.results.metrics import METRICS
from src.results.record import Result
from src.results.terminal import print_rows

CONDITIONS = ("dataset", "adapted on", "backbone", "shots", "seed", "selection")
WORDS = {"dataset", "adapted on", "backbone", "method", "selection"}


def show(results: Sequence[Result], title: str) -> None:
    """Print one row per run; accuracies that are not comparable carry a mark.

    A condition that all runs share stands above the table, not in a column.
    """
    rows = [_row(result) for result in results]
    if not rows:
        return
    shared = [name for name in CONDITIONS if len({row[name] for row in rows}) == 1]
    columns = [name for name in rows[0] if name not in shared and any(row[name] for row in rows)]
    console = Console()
    console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
    above = [f"[dim]{name}[/dim] {escape(rows[0][name])}" for name in shared if rows[0][name]]
    console.print("  ".join(above))
    cells = [
        {name: Text(row[name], "bold" if name == "accuracy" else "") for name in columns}
        for row in rows
    ]
    print_rows(cells, labels={*CONDITIONS, "method"}, words=WORDS)
    for meaning in explanations(" ".join(row["accuracy"] for row in rows)):
        console.print(meaning, highlight=False)


def _row(result: Result) -> dict[str, str]:
    """Format the cells of a run; a column that is empty for all runs is left out."""
    metrics = {one.heading: one.text(result.metrics.get(one.name)) for one in METRICS}
    metrics["accuracy"] += marks(result.selected_on_test, result.saw_test_images)
    return {
        "dataset": result.dataset,
        "adapted on": "" if result.adapted_on == result.dataset else result.adapted_on,
        "backbone": result.backbone,
        "method": result.method,
        "shots": str(result.shots),
        "seed": str(result.seed),
        "selection": result.selection,
        **metrics,
        "validation": _optional(result.validation_accuracy),
        "published": _optional(result.published),
    }


def _optional(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2f}"
