"""What a sweep ends in: its jobs in one table, in the terminal and in `summary.md`."""

from collections.abc import Sequence
from pathlib import Path

from src.files import replacing
from src.results import summary, table
from src.results.record import Result

SUMMARY = "summary.md"
LONG = 12
"""Jobs from which on a row for each is too much to look at."""


def present(folder: Path, results: Sequence[Result]) -> None:
    """Show the results of the sweep in `folder`."""
    if not results:
        return
    if len(results) <= LONG:
        table.show(results, f"all runs in {folder}")
    summaries = summary.summarise(results)
    if any(len(each.cells) < len(results) for each in summaries):
        summary.show(summaries)
    with replacing(folder / SUMMARY) as temporary:
        temporary.write_text(summary.markdown(summaries))
