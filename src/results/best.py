"""Which figures of a table are its best, as far as the seeds can tell."""

from collections.abc import Mapping

import numpy as np

from src.results.comparison import DECIMALS, NOT_COMPARED, paired
from src.results.summary import Cell, half_width
from src.results.summary_tables import Table

NOTE = (
    "Bold: the highest of a column, and what does not differ from it, by the 95 % interval of the "
    "difference over the seeds that both have (Student's t). Nothing is bold where there is a "
    "single seed."
)


def of_table(table: Table) -> dict[str, list[bool]]:
    """Say for each cell of a table whether it is among the best of its column."""
    columns = [
        best({label: cell for label, row in table.rows.items() if (cell := row[number])})
        for number in range(len(table.columns))
    ]
    return {label: [label in column for column in columns] for label in table.rows}


def best(column: Mapping[str, Cell]) -> set[str]:
    """Choose the highest cell, and those that the seeds cannot tell from it.

    What is not comparable has no part in it.

    Returns:
        Their labels; none if no seeds can tell any two cells apart.
    """
    cells = {
        label: cell
        for label, cell in column.items()
        if cell.by_seed and not any(getattr(cell, name) for name in NOT_COMPARED)
    }
    if len(cells) < 2:
        return set()
    first = max(cells, key=lambda label: cells[label].mean)
    found, tested = {first}, False
    for label, cell in cells.items():
        pairs = list(paired([cells[first].by_seed, cell.by_seed]))
        differences = [round(one - other, DECIMALS) for one, other in pairs]
        interval = half_width(differences)
        if label == first or interval is None:
            continue
        tested = True
        if float(np.mean(differences)) <= interval:
            found.add(label)
    return found if tested else set()
