"""What a sweep ends in: its jobs in the terminal, and their report."""

from collections.abc import Sequence
from pathlib import Path

from src.results.record import Result

LONG = 12
"""Jobs from which on a row for each is too much to look at."""


def present(folder: Path, results: Sequence[Result]) -> Path:
    """Show the `results` of a sweep, and write the report of all that its `folder` holds.

    Returns:
        The report's page.
    """
    from src.results import formats, frame, page, summary, table

    if len(results) <= LONG:
        table.show(results, f"all runs in {folder}")
    cells = summary.summarise(frame.load([folder]).frame)
    if len(cells) < len(results):
        formats.show(summary.by_shots(cells))
    written = page.write_report([folder], folder / page.FOLDER)
    print(f"report in {written}")
    return written
