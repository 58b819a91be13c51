"""What a sweep shows at its end: its jobs in the terminal, and their report."""

from collections.abc import Sequence
from pathlib import Path

from src.results.record import Result

MOST = 12
"""How many jobs a sweep may have for its table to have a row for each."""


def present(folder: Path, results: Sequence[Result]) -> Path:
    """Show the `results` of a sweep, and write the report on everything in its `folder`.

    Returns:
        The report's page.
    """
    from src.results import formats, frame, page, summary, table

    if len(results) <= MOST:
        table.show(results, f"all runs in {folder}")
    cells = summary.summarise(frame.load([folder]).frame)
    if len(cells) < len(results):
        formats.show(summary.by_shots(cells))
    written = page.write_report([folder], folder / page.FOLDER)
    print(f"report in {written}")
    return written
