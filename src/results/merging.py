"""Runs from several places in one table: which are the same, and which contradict one another."""

import logging
from collections.abc import Sequence

import pandas as pd

from src.results.comparison import DECIMALS
from src.results.summary import PLACE, compared, without_needless_seeds

log = logging.getLogger(__name__)

NAMED = 8
"""How many results a note names, at most."""


def told_apart(frame: pd.DataFrame) -> pd.Series:
    """Give the backbones' names; of another one with the same name, its weights stand beside it.

    A name means the weights that runs below folders have, or else those of the first line that
    has it: what stands in a file of results is never averaged with what has other weights.
    """
    names = frame["backbone"].copy()
    for name, group in frame.groupby("backbone", sort=False):
        own = group.loc[group["measured_by"] == "", "weights"].dropna()
        meant = {*own} or {*group["weights"].dropna()[:1]}
        other = (group["measured_by"] != "") & group["weights"].notna()
        other &= ~group["weights"].isin(meant)
        for row in group.index[other]:
            weights = str(group["weights"][row]).rpartition("/")[2]
            names[row] = f"{name} [{weights[:15]}]"
    return names


def merge(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep one of the results that stand in several places, or several times in files of results.

    Runs below folders come before lines of files, and of these the one that began first.

    Returns:
        The frame, and at most two notes: which results occur more than once, and which disagree.
    """
    runs = without_needless_seeds(frame).assign(compared=compared(frame))
    dropped: list[int] = []
    same, different = [], []
    files: dict[str, None] = {}
    for place, group in runs.groupby([*PLACE, "seed"], sort=False):
        own = group["measured_by"] == ""
        if len(group) < 2 or own.all():
            continue
        kept = group[own] if own.any() else group[:1]
        dropped += [row for row in group.index if row not in kept.index]
        _, backbone, task, label, shots, seed = place
        name = f"{label} on {task} ({backbone}, shots={shots}, seed={seed})"
        if group["compared"].round(DECIMALS).nunique(dropna=False) == 1:
            same.append(name)
            files |= dict.fromkeys(group["measured_by"])
        else:
            found = zip(group["compared"], group["folder"], strict=True)
            different.append(f"{name}: {_listed([f'{one:.2f} ({at})' for one, at in found])}")
    notes = []
    if same:
        places = _listed([file or "the folders" for file in files])
        notes.append(f"In several places ({places}), and counted once: {_listed(same, '; ')}.")
    if different:
        notes.append(
            "Measured several times with different results, of which the first one counts: "
            f"{_listed(different, '; ')}."
        )
        log.warning("%s", notes[-1])
    return frame.drop(index=dropped).reset_index(drop=True), notes


def _listed(names: Sequence[str], between: str = ", ") -> str:
    more = len(names) - NAMED
    listed = between.join(names[:NAMED])
    return f"{listed}{between}and {more} more" if more > 0 else listed
