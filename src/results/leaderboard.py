"""The tables of a page as leaderboards: average ranks, what is best, and what can be filtered."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from src.results import best, comparison, formats
from src.results.marks import SIGNS_WRITTEN
from src.results.names import shown
from src.results.summary import AVERAGE, Cell
from src.results.summary_tables import Table

RANKED = (
    "Average ranks are over {} datasets, 1 is the best; methods without one are not compared with "
    "the others: see the methods in pairs."
)


class Row(NamedTuple):
    """A method.

    Attributes:
        label: what filters know it by.
        name: how it is called.
        rank: its average rank; empty where there is none.
        cells: its figures, each with whether it is among the best of its column.
    """

    label: str
    name: str
    rank: str
    cells: list[tuple[Cell | None, bool]]


class Board(NamedTuple):
    """A table of a page.

    Attributes:
        title: what its figures are.
        columns: each heading, and the dataset that it is about if the others are about others.
        rows: the methods, by rank where they are ranked.
        ranked: some are.
        notes: the meaning of its signs, for paper.
        backbone: that of its runs.
        dataset: the one that all of it is about; empty if there are several.
        kind: what a style sheet calls it; empty for most.
    """

    title: str
    columns: list[tuple[str, str]]
    rows: list[Row]
    ranked: bool
    notes: list[str]
    backbone: str
    dataset: str
    kind: str


class Filter(NamedTuple):
    """What a reader may choose among.

    Attributes:
        name: `dataset`, `method`, `protocol` or `backbone`.
        choices: each value, and how it is called.
    """

    name: str
    choices: list[tuple[str, str]]


def boards(tables: Sequence[Table], comparisons: Sequence[comparison.Comparison]) -> list[Board]:
    """Make the tables of a page; those over datasets have the average ranks of their methods."""
    by_place = {(one.protocol, one.backbone, one.adapted_on, one.shots): one for one in comparisons}
    return [_board(table, by_place.get(table.place) if table.place else None) for table in tables]


def _board(table: Table, compared: comparison.Comparison | None) -> Board:
    ranks: dict[str, float] = {}
    notes = formats.notes([table])
    if compared is not None and compared.ranked > 1:
        ranks = {label.rstrip(SIGNS_WRITTEN): rank for label, rank in compared.ranks.items()}
        notes.append(RANKED.format(compared.ranked))
    bold = best.of_table(table)
    rows = [
        Row(
            label,
            shown(label),
            f"{ranks[label]:.2f}" if label in ranks else "",
            list(zip(cells, bold[label], strict=True)),
        )
        for label, cells in table.rows.items()
    ]
    rows.sort(key=lambda row: ranks.get(row.label, float("inf")))
    several = len(table.tasks) > 1
    columns = zip(table.columns, table.tasks, strict=True) if several else None
    wide = "wide" if len(table.columns) > 8 else ""
    return Board(
        table.title,
        [(name, "" if task.startswith(AVERAGE) else task) for name, task in columns]
        if columns
        else [(name, "") for name in table.columns],
        rows,
        bool(ranks),
        notes,
        table.backbone,
        "" if several else table.tasks[0],
        wide or ("halves" if table.protocol == "base_to_new" else ""),
    )


def filters(cells: pd.DataFrame) -> list[Filter]:
    """Say what can be chosen among.

    Args:
        cells: what `src.results.summary.summarise` returns.
    """
    tasks = [task for task in cells["task"].unique() if AVERAGE not in task]
    found = [
        Filter("dataset", [(task, task) for task in tasks]),
        Filter("method", [(label, shown(label)) for label in cells["label"].unique()]),
        Filter("protocol", _same(cells["protocol"].unique())),
        Filter("backbone", _same(cells["backbone"].unique())),
    ]
    return [one for one in found if len(one.choices) > 1]


def _same(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, name) for name in names]
