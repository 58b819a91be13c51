"""What a summary holds as tables: methods down, and shots, datasets or kinds of classes across."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pandas as pd

from src.config import ALL_CLASSES
from src.results.protocols import BASE, BASE_TO_NEW, HARMONIC, HEADINGS, NEW, in_words, reading
from src.results.summary import AVERAGE, TRANSFER, Cell, at_shots

OF_HARMONIC = (
    "H is the harmonic mean of base and new as they stand beside it, so that of their averages, as "
    "it is published; its ± is half the 95 % interval of the H of the seeds."
)
OVER_TARGETS = (
    "The average is over the datasets tested on beside the one adapted to, for methods that were "
    "run on all of them."
)


class Table(NamedTuple):
    """Cells by row (method) and column; None where there is no run.

    Attributes:
        title: what the cells are.
        columns: the headings of the columns.
        rows: the cells of each method.
        notes: what its columns mean.
        protocol: that of its runs.
        place: of a table by dataset, what `src.results.comparison.Comparison` has first: the
            protocol, the backbone, the dataset that all were adapted to (empty if they were tested
            on that) and the shots.
        tasks: what each column is about, where it is a dataset; else what the table is about.
        backbone: that of its runs.
    """

    title: str
    columns: list[str]
    rows: dict[str, list[Cell | None]]
    notes: tuple[str, ...] = ()
    protocol: str = ALL_CLASSES
    place: tuple[str, str, str, int] | None = None
    tasks: tuple[str, ...] = ()
    backbone: str = ""


def by_shots(cells: pd.DataFrame) -> list[Table]:
    """Make the tables of each protocol that have the shots across, or are of one number of shots.

    There is one per backbone and dataset, and for the average, with a column per shots. By
    `base_to_new` there is one for each number of shots, with base, new and H across; and by the
    protocols that test on other datasets, one per backbone and shots with these across.
    """
    return [
        table
        for (protocol, _), group in cells.groupby(["protocol", "backbone"], sort=False)
        for table in _maker(protocol)(group)
    ]


def by_dataset(cells: pd.DataFrame) -> list[Table]:
    """Make a table per backbone and shots that several datasets have, with a column per dataset.

    A method that sees no labelled images (0 shots) has a row in each of them. There is none of the
    protocols that `by_shots` makes other tables of.
    """
    return [
        _table(
            f"{_where(group)}, shots={shots}: {quantity} in % by dataset",
            group,
            "task",
            (str(protocol), str(backbone), "", int(shots)),
        )
        for (protocol, backbone), of_backbone in cells.groupby(["protocol", "backbone"], sort=False)
        if _maker(protocol) is _by_shots
        for quantity in [reading(protocol).quantity]
        for shots, group in at_shots(of_backbone)
        if group["task"].nunique() > 1
    ]


def _maker(protocol: str) -> Callable[[pd.DataFrame], Iterator[Table]]:
    if protocol == BASE_TO_NEW:
        return _by_classes
    return _by_target if reading(protocol).elsewhere else _by_shots


def _by_shots(cells: pd.DataFrame) -> Iterator[Table]:
    for task in sorted(cells["task"].unique(), key=_average_first):
        group = cells[cells["task"] == task]
        quantity = reading(group["protocol"].iloc[0]).quantity
        yield _table(f"{task}, {_where(group)}: {quantity} in % by shots", group, "shots")


def _by_classes(cells: pd.DataFrame) -> Iterator[Table]:
    for task in sorted(cells["task"].unique(), key=_average_first):
        for shots, group in at_shots(cells[cells["task"] == task]):
            rows = {
                label: [*cell.parts.values(), cell]
                for label, cell in zip(group["label"], group["cell"], strict=True)
            }
            title = f"{task}, {_where(group)}, shots={shots}: top-1 accuracy in %"
            headings = [HEADINGS[one] for one in (BASE, NEW, HARMONIC)]
            about: Any = {"tasks": (task,), "backbone": str(group["backbone"].iloc[0])}
            yield Table(title, headings, rows, (OF_HARMONIC,), BASE_TO_NEW, **about)


def _by_target(cells: pd.DataFrame) -> Iterator[Table]:
    adapted_on = cells["task"].str.partition(f" {TRANSFER} ")[0]
    for source, of_source in cells.groupby(adapted_on, sort=False):
        quantity = reading(of_source["protocol"].iloc[0]).quantity
        for shots, group in at_shots(of_source):
            title = (
                f"{_where(group)}, adapted to {source}, shots={shots}: {quantity} in % by dataset"
            )
            names = group.assign(task=group["task"].str.removeprefix(f"{source} {TRANSFER} "))
            first = group.iloc[0]
            place = (str(first["protocol"]), str(first["backbone"]), str(source), int(shots))
            table = _table(title, names, "task", place)
            averaged = any(column.startswith(AVERAGE) for column in table.columns)
            tasks = tuple(f"{source} {TRANSFER} {column}" for column in table.columns)
            yield table._replace(notes=(OVER_TARGETS,) if averaged else (), tasks=tasks)


def _where(cells: pd.DataFrame) -> str:
    place = cells.iloc[0]
    return ", ".join(filter(None, (place["backbone"], in_words(place["protocol"]))))


def _average_first(task: str) -> bool:
    return not task.startswith(AVERAGE)


def _table(
    title: str,
    cells: pd.DataFrame,
    across: str,
    place: tuple[str, str, str, int] | None = None,
) -> Table:
    found = dict(zip(zip(cells["label"], cells[across], strict=True), cells["cell"], strict=True))
    columns = sorted(cells[across].unique(), key=None if across == "shots" else _average_first)
    rows = {
        label: [found.get((label, column)) for column in columns]
        for label in cells["label"].unique()
    }
    headings = [str(column) for column in columns]
    tasks = headings if across == "task" else [str(cells["task"].iloc[0])]
    protocol = str(cells["protocol"].iloc[0])
    backbone = str(cells["backbone"].iloc[0])
    return Table(title, headings, rows, (), protocol, place, tuple(tasks), backbone)
