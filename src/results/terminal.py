"""Tables in the terminal: no cell is cut, and columns that do not fit stand in a table below."""

from collections.abc import Collection, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.command_line import make_console, printable

GAP = 2
"""Spaces between two columns."""


def print_rows(
    rows: Sequence[Mapping[str, Text]], labels: Collection[str], words: Collection[str]
) -> None:
    """Print one table, or several below each other where the terminal is too narrow for one.

    Args:
        rows: the cells by heading; all rows have the same headings in the same order.
        labels: headings of the columns that say what a row is. Every table begins with them.
        words: headings of the columns that are aligned to the left.
    """
    rows = [
        {heading: Text(printable(cell.plain), cell.style) for heading, cell in row.items()}
        for row in rows
    ]
    widths = {heading: _width(heading, [row[heading] for row in rows]) for heading in rows[0]}
    available = make_console().width
    for headings in _share_out(widths, labels, available):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for heading in headings:
            table.add_column(
                _stacked(heading),
                justify="left" if heading in words else "right",
                vertical="bottom",
                no_wrap=True,
            )
        for row in rows:
            table.add_row(*(row[heading] for heading in headings))
        needed = sum(widths[heading] for heading in headings)
        Console(width=max(available, needed)).print(table)


def _share_out(
    widths: Mapping[str, int], labels: Collection[str], available: int
) -> list[list[str]]:
    """Distribute the columns over tables that fit, unless the labels and one column do not."""
    first = [heading for heading in widths if heading in labels]
    tables: list[list[str]] = []
    for heading in widths:
        if heading in labels:
            continue
        if not tables or sum(widths[one] for one in [*tables[-1], heading]) > available:
            tables.append([*first])
        tables[-1].append(heading)
    return tables


def _width(heading: str, cells: Sequence[Text]) -> int:
    lines = [Text(line) for line in _stacked(heading).split("\n")]
    return GAP + max(cell.cell_len for cell in [*lines, *cells])


def _stacked(heading: str) -> str:
    return printable(heading).replace(" ", "\n")
