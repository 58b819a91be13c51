"""Results as a table in the terminal, a row for each run."""

from collections.abc import Sequence

from rich.markup import escape
from rich.text import Text

from src.command_line import make_console, printable
from src.results.marks import explanations, marks
from src.results.metrics import Metric
from src.results.protocols import HEADINGS, columns, in_words, published_figures, reading
from src.results.published import common_source, describe
from src.results.record import Result
from src.terminal import print_rows

CONDITIONS = ("dataset", "adapted on", "backbone", "shots", "seed", "selection")
WORDS = {"dataset", "adapted on", "backbone", "method", "selection"}


def show(results: Sequence[Result], title: str, labels: Sequence[str] | None = None) -> None:
    """Print one row per run; accuracies that are not comparable carry a mark.

    A condition that all runs share stands above the table, not in a column. Each protocol has a
    table of its own.

    Args:
        results: the runs.
        title: what they are.
        labels: what stands for the method of each, where methods do not tell them apart.
    """
    if not results:
        return
    make_console().print(f"\n[bold]{escape(printable(title))}[/bold]", soft_wrap=True)
    labelled = list(zip(results, labels or [one.method for one in results], strict=True))
    protocols = list(dict.fromkeys(result.protocol for result in results))
    for protocol in protocols:
        if protocol != protocols[0]:
            make_console().print()
        name = protocol if len(protocols) > 1 else in_words(protocol)
        _show([one for one in labelled if one[0].protocol == protocol], protocol, name)


def _show(labelled: Sequence[tuple[Result, str]], protocol: str, name: str) -> None:
    """Print the runs of a protocol; its name stands above them, unless it is empty."""
    console = make_console()
    read, metrics = reading(protocol), columns(protocol)
    figures = [published_figures(result) for result, _ in labelled]
    source = common_source(one.get(read.metrics[0], {}) for one in figures)
    rows = [
        _row(result, label, metrics)
        | {
            "published" if len(read.metrics) == 1 else f"published {HEADINGS[metric]}": _optional(
                published.get(metric, {}).get(source or "")
            )
            for metric in read.metrics
        }
        for (result, label), published in zip(labelled, figures, strict=True)
    ]
    shared = [name for name in CONDITIONS if len({row[name] for row in rows}) == 1]
    shown = [name for name in rows[0] if name not in shared and any(row[name] for row in rows)]
    above = {"protocol": name} | {name: rows[0][name] for name in shared}
    conditions = [
        f"[dim]{condition}[/dim] {escape(printable(value))}"
        for condition, value in above.items()
        if value
    ]
    console.print("  ".join(conditions))
    counts = HEADINGS[read.metric]
    cells = [
        {heading: Text(row[heading], "bold" if heading == counts else "") for heading in shown}
        for row in rows
    ]
    print_rows(cells, labels={*CONDITIONS, "method"}, words=WORDS)
    if read.beside:
        console.print(read.beside, highlight=False)
    for meaning in explanations(" ".join(row[counts] for row in rows)):
        console.print(meaning, highlight=False)
    if source is not None:
        console.print(f"published: {describe(source)}", highlight=False)


def _row(result: Result, label: str, metrics: Sequence[Metric]) -> dict[str, str]:
    """Format the cells of a run; a column that is empty for all runs is left out."""
    found = {one.heading: one.text(result.metrics.get(one.name)) for one in metrics}
    found[HEADINGS[reading(result.protocol).metric]] += marks(result)
    return {
        "dataset": result.dataset,
        "adapted on": "" if result.adapted_on == result.dataset else result.adapted_on,
        "backbone": result.backbone,
        "method": label,
        "shots": str(result.shots),
        "seed": str(result.seed),
        "selection": result.selection,
        **found,
        "validation": _optional(result.validation_accuracy),
        "zero-shot": _optional(result.zero_shot),
        "images per class": result.balance,
    }


def _optional(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2f}"
