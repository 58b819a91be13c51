"""What others have measured, file by file, beside what was published."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from src.results.comparison_tables import Text, signed
from src.results.drawn import commit
from src.results.names import shown
from src.results.protocols import in_words
from src.results.published import describe
from src.results.summary import AVERAGE, Cell, summarise

MOST = 4
"""How many versions, weights or machines of one file are named, at most."""
VERSIONS, MACHINE = "versions.", "machine."
"""What the frame's columns of a record's `versions` and `machine` begin with."""


class Contributed(NamedTuple):
    """The figures of one file of results.

    Attributes:
        file: its name.
        facts: what they were measured with.
        figures: one row per method, dataset and number of shots.
        notes: where the published figures are from.
    """

    file: str
    facts: dict[str, str]
    figures: Text
    notes: list[str]


def contributed(runs: pd.DataFrame) -> Iterator[Contributed]:
    """Gather the figures of each file of results in a frame; those of folders are no one else's."""
    others = runs[runs["measured_by"] != ""]
    for file, group in others.groupby("measured_by", sort=False):
        cells = summarise(group)
        cells = cells[~cells["task"].str.contains(AVERAGE)]
        rows = [
            {
                "method": shown(cell.label),
                "dataset": cell.task,
                "backbone": " ".join(filter(None, (cell.backbone, in_words(cell.protocol)))),
                "shots": str(cell.shots),
                **_figures(cell.cell),
            }
            for cell in cells.itertuples()
        ]
        found = [cell for cell in cells["cell"] if cell.published is not None]
        sources = dict.fromkeys(cell.source for cell in found if cell.source)
        notes = [f"published: {describe(source)}" for source in sources]
        columns = {"dataset": "task", "method": "label", "backbone": "backbone"}
        columns["protocol"] = "protocol"
        places = [
            {name: str(cell[column]) for name, column in columns.items()}
            for _, cell in cells.iterrows()
        ]
        figures = Text(f"Measured by {file}", _without_empty(rows), places)
        yield Contributed(str(file), _facts(group), figures, notes)


def _figures(cell: Cell) -> dict[str, str]:
    return {
        "measured": f"{cell.mean:.2f}{cell.marks}",
        "±": "" if cell.interval is None else f"{cell.interval:.2f}",
        "seeds": str(cell.seeds),
        "published": "" if cell.published is None else f"{cell.published:.2f}",
        "difference": "" if cell.difference is None else signed(cell.difference),
    }


def _without_empty(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    shown_too = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    return [{name: row[name] for name in shown_too} for row in rows]


def _facts(runs: pd.DataFrame) -> dict[str, str]:
    versions = [name for name in runs if name.startswith(VERSIONS)]
    machine = [name for name in runs if name.startswith(MACHINE)]
    found = {
        "runs": str(len(runs)),
        "commit": _listed(map(commit, runs["git_revision"])),
        "weights": _listed(runs["weights"].dropna().map(_short)),
        "precision": _listed(runs["precision"].dropna()),
        "machine": _listed(", ".join(_texts(row[machine])) for _, row in runs.iterrows()),
        **{name.removeprefix(VERSIONS): _listed(runs[name].dropna()) for name in versions},
    }
    return {name: value for name, value in found.items() if value}


def _texts(values: pd.Series) -> list[str]:
    return [str(value) for value in values if isinstance(value, str) and value]


def _short(weights: str) -> str:
    """Shorten checksums to what tells files apart; the file of results has them whole."""
    return re.sub(r"(sha256:[0-9a-f]{12})[0-9a-f]+", r"\1…", weights)


def _listed(values: Any) -> str:
    names = [name for name in dict.fromkeys(map(str, values)) if name]
    more = len(names) - MOST
    return ", ".join(names[:MOST]) + (f" and {more} more" if more > 0 else "")
