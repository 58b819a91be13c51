"""The figures of a report, and from which runs each of them was made."""

import base64
import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from src.results.comparison_tables import Text

LONGEST = 160
"""Bytes of a name that a file system takes, with room for what follows."""
COMMANDS = 3
"""How many commands stand below a figure, at most."""


class DrawnFrom(NamedTuple):
    """The runs that a figure or a table was made of."""

    runs: str
    commit: str
    commands: list[str]


class Drawn(NamedTuple):
    """One figure.

    Attributes:
        file: its name in the folder of the figures.
        title: its caption.
        content: the SVG or the PNG.
        drawn_from: its runs; None in a `Detail`, which names them once for all its figures.
        numbers: what it shows, as a table; None of a picture whose numbers were not kept.
        place: what it is about, by the filters of a page.
    """

    file: str
    title: str
    content: bytes
    drawn_from: DrawnFrom | None = None
    numbers: Text | None = None
    place: Mapping[str, str] = {}

    @property
    def url(self) -> str:
        kind = "image/png" if self.file.endswith(".png") else "image/svg+xml"
        return f"data:{kind};base64,{base64.b64encode(self.content).decode()}"


def drawn_from(runs: pd.DataFrame, single: bool = False) -> DrawnFrom:
    """Say which runs something is made of, by which commands: a run's own, or its sweep's."""
    commands = [one for one in runs["command" if single else "made_by"].unique() if one]
    more = len(commands) - COMMANDS
    if more > 0:
        commands = [*commands[:COMMANDS], f"... and {more} more commands: see the list of all runs"]
    commits = [commit(revision) for revision in runs["git_revision"].unique()]
    of = f"{len(runs)} runs" if len(runs) > 1 else str(runs["folder"].iloc[0])
    return DrawnFrom(of, ", ".join(commits), commands)


def commit(revision: Any) -> str:
    """Write a commit as it is written in a page."""
    if not isinstance(revision, str):
        return "unknown"
    name, _, dirty = revision.partition("-")
    return name[:12] + (" with uncommitted changes" if dirty else "")


def number(value: Any) -> str:
    """Write a setting or a text; nothing for one that is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def slug(*parts: str) -> str:
    """Make the name of a file of what it is about."""
    words = "-".join(parts).replace("→", "to")
    name = "".join(c if c.isalnum() or c in "_.=" else "-" for c in words).strip("-.")
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name[: LONGEST // 4]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
