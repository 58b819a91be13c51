"""Tables in the terminal: no cell is cut, and columns that do not fit stand in a table below."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.command_line import WITHOUT_LIMIT, make_console, printable

GAP = 2
"""Spaces between two columns."""

PROSE = 28
"""How wide a column of prose is made, unless it has a longer word."""

MOST_TABLES = 3
"""How many tables the columns of one may be shared out among, before rows are blocks instead."""

Row = Mapping[str, Text]


def print_rows(
    rows: Sequence[Row],
    labels: Collection[str],
    words: Collection[str],
    prose: Collection[str] = (),
) -> None:
    """Print one table, or several below each other where the terminal is too narrow for one.

    Where it is too narrow for those too, each row becomes a block of lines. A blank line stands
    before each table and none after the last.

    Args:
        rows: the cells by heading; all rows have the same headings in the same order.
        labels: headings of the columns that say what a row is. Every table begins with them.
        words: headings of the columns that are aligned to the left.
        prose: headings of the columns whose cells may be broken between words.
    """
    rows = [
        {heading: Text(printable(cell.plain), cell.style) for heading, cell in row.items()}
        for row in rows
    ]
    available = make_console().width
    widths = {
        heading: _width(
            heading, [row[heading] for row in rows], heading in prose, available < WITHOUT_LIMIT
        )
        for heading in rows[0]
    }
    tables = _share_out(widths, labels, available)
    if len(tables) > MOST_TABLES or any(_together(one, widths) > available for one in tables):
        _print_blocks(rows, labels, available)
        return
    for headings in tables:
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0)
        )
        for heading in headings:
            table.add_column(
                _stacked(heading),
                justify="left" if heading in words else "right",
                vertical="top" if prose else "bottom",  # of the headings, and of broken cells
                no_wrap=heading not in prose,
                width=widths[heading],
            )
        for row in rows:
            table.add_row(*(row[heading] for heading in headings))
        console = make_console()
        console.print()
        console.print(table)


def _share_out(
    widths: Mapping[str, int], labels: Collection[str], available: int
) -> list[list[str]]:
    """Distribute the columns over tables that fit, unless the labels and one column do not."""
    first = [heading for heading in widths if heading in labels]
    tables: list[list[str]] = []
    for heading in widths:
        if heading in labels:
            continue
        if not tables or _together([*tables[-1], heading], widths) > available:
            tables.append([*first])
        tables[-1].append(heading)
    return tables or [first]


def _together(headings: Sequence[str], widths: Mapping[str, int]) -> int:
    return sum(widths[heading] + GAP for heading in headings) - GAP


def _width(heading: str, cells: Sequence[Text], is_prose: bool, limited: bool) -> int:
    lines = [Text(line) for line in _stacked(heading).split("\n")]
    if not (is_prose and limited):
        return max(cell.cell_len for cell in [*lines, *cells])
    longest = max(Text(word).cell_len for cell in cells for word in ["", *cell.plain.split()])
    widest = max(cell.cell_len for cell in cells)
    return max(longest, min(widest, PROSE), *(line.cell_len for line in lines))


def _print_blocks(rows: Sequence[Row], labels: Collection[str], width: int) -> None:
    """Print each row as lines of headings and values; empty cells are left out."""
    console = Console(width=width)
    for row in rows:
        console.print()
        for of_labels, indent in ((True, ""), (False, "  ")):
            pairs = [
                Text.assemble((printable(heading), "dim"), " ", cell)
                for heading, cell in row.items()
                if (heading in labels) == of_labels and cell.plain
            ]
            for line in _lines(pairs, width - len(indent), console):
                line.rstrip()
                console.print(Text(indent) + line, soft_wrap=True)


def _lines(pairs: Sequence[Text], width: int, console: Console) -> Iterator[Text]:
    """Fill lines with pairs; only one that is longer than a line is broken, between words."""
    filled = Text()
    for pair in pairs:
        if filled and filled.cell_len + GAP + pair.cell_len > width:
            yield from filled.wrap(console, width)
            filled = Text()
        filled = Text(" " * GAP).join([filled, pair]) if filled else pair
    if filled:
        yield from filled.wrap(console, width)


def _stacked(heading: str) -> str:
    return printable(heading).replace(" ", "\n")
