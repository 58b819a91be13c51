"""What a sweep shows at its end: its jobs in the terminal, and their report."""

from collections.abc import Sequence
from pathlib import Path

from src.config import ALL_CLASSES
from src.results.record import Result

MOST = 12
"""How many jobs a sweep may have for its table to have a row for each."""


def present(folder: Path, files: Sequence[Path]) -> Path:
    """Show the results of a sweep, and write the report on everything in its `folder`.

    Args:
        folder: that of the sweep.
        files: the `result.json` of each of its runs.

    Returns:
        The report's page.
    """
    from src.results import formats, frame, page, summary, summary_tables, table

    runs = frame.load([folder]).frame
    if len(files) <= MOST:
        labels = dict(zip(runs["folder"], runs["label"], strict=True))
        results = [Result.read(file) for file in files]
        shown = [labels[str(file.parent)] for file in files]
        table.show(results, f"all runs in {folder}", shown)
    cells = summary.summarise(runs)
    if len(cells) < len(files) or (runs["protocol"] != ALL_CLASSES).any():
        formats.show(summary_tables.by_shots(cells))
    written = page.write_report([folder], folder / page.FOLDER)
    print(f"report in {written}")
    return written
