"""Results as a table in the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from src.results.record import Result

DAGGER = "†"
NOT_COMPARABLE = f"{DAGGER} settings chosen on the test split: not comparable."
CONDITIONS = ("dataset", "adapted on", "backbone", "shots", "seed", "selection")
WORDS = {"dataset", "adapted on", "backbone", "method", "selection"}


def show(results: Sequence[Result], title: str) -> None:
    """Print one row per run; figures whose settings were chosen on the test split carry a †.

    A condition that all runs share stands above the table, not in a column.
    """
    rows = [_row(result) for result in results]
    if not rows:
        return
    shared = [name for name in CONDITIONS if len({row[name] for row in rows}) == 1]
    columns = [name for name in rows[0] if name not in shared and any(row[name] for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in WORDS else "right")
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    console = Console()
    console.print(f"\n[bold]{title}[/bold]", soft_wrap=True)
    above = [f"[dim]{name}[/dim] {rows[0][name]}" for name in shared if rows[0][name]]
    console.print("  ".join(above))
    console.print(table)
    if any(result.selected_on_test for result in results):
        console.print(NOT_COMPARABLE)


def _row(result: Result) -> dict[str, str]:
    """Format the cells of a run; a column that is empty for all runs is left out."""
    mark = DAGGER if result.selected_on_test else ""
    return {
        "dataset": result.dataset,
        "adapted on": "" if result.adapted_on == result.dataset else result.adapted_on,
        "backbone": result.backbone,
        "method": result.method,
        "shots": str(result.shots),
        "seed": str(result.seed),
        "selection": result.selection,
        "accuracy": f"[bold]{result.accuracy:.2f}{mark}[/bold]",
        "class mean": f"{result.mean_class_accuracy:.2f}",
        "ECE": f"{result.ece:.3f}",
        "validation": _optional(result.validation_accuracy),
        "published": _optional(result.published),
    }


def _optional(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.2f}"
