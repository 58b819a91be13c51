"""A report: the figures and tables of some runs in one folder, and all of it in one HTML page."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from src.files import replacing
from src.results import (
    comparison,
    comparison_tables,
    contributed,
    details,
    formats,
    frame,
    index,
    leaderboard,
    numbers,
    summary,
    summary_tables,
)
from src.results.details import score
from src.results.drawn import Drawn, commit, drawn_from, number, slug
from src.results.index import rendered
from src.results.protocols import HEADINGS, columns, in_words, reading
from src.results.published import describe

FIGURES = "figures"
FOLDER = "report"
"""Where a report lies, below the first of the folders that it is about."""
RUN = {
    "task": "dataset", "backbone": "backbone", "label": "method", "shots": "shots", "seed": "seed",
    "selection": "selection",
}  # fmt: skip
BESIDE = {
    "settings_from": "settings from", "git_revision": "commit", "folder": "folder",
    "command": "command",
}  # fmt: skip
"""What stands before and behind the metrics in the list of all runs: columns of the frame, and
their headings."""


class Part(NamedTuple):
    """What a report says of the runs of one protocol.

    Attributes:
        heading: that of its tables.
        about: what the protocol is; empty for the usual one.
        protocol: its name.
        tables: the accuracies.
        boards: the same as the page has them.
        notes: the meaning of their signs.
        runs: the list of all runs, by heading.
        published: what the published accuracies are from, None where there are none.
    """

    heading: str
    about: str
    protocol: str
    tables: list[summary_tables.Table]
    boards: list[leaderboard.Board]
    notes: list[str]
    runs: list[dict[str, str]]
    published: str | None


class Compared(NamedTuple):
    """A comparison of methods.

    Attributes:
        title: what is compared.
        ranks: the average rank of each.
        pairs: each two of them.
        notes: what it cannot say.
        drawn: the average-rank diagram, None of two methods or on a single dataset.
        place: what it is about, by the filters of a page.
    """

    title: str
    ranks: comparison_tables.Text
    pairs: comparison_tables.Text
    notes: list[str]
    drawn: Drawn | None
    place: dict[str, str]


def write_report(places: Sequence[Path], output: Path) -> Path:
    """Write the report on every run in `places` into `output`; returns the page's path.

    A place is a folder, or a file of results as `src.results.submission` writes it.

    `runs.csv` has a row per run. `table.md`, `table.csv` and `table.tex` have the accuracies,
    `comparison.csv` has the methods in pairs, and `figures/` has the figures. `report.html` has
    everything, and needs no other file. `report.json` is what an index of several reports reads.

    Raises:
        UserError: a folder is missing, or holds no result.
    """
    runs = frame.load(places)
    comparisons = comparison.compare(runs.frame)
    cells = summary.summarise(runs.frame)
    parts = [
        _part(str(protocol), group, cells[cells["protocol"] == protocol], comparisons)
        for protocol, group in runs.frame.groupby("protocol", sort=False)
    ]
    tables = [table for part in parts for table in part.tables]
    compared = [_compared(one, runs.frame) for one in comparisons]
    picked, left_out, damaged = details.read_picked(runs.frame)
    curves = _curves(runs.frame, cells)
    looked_at = [details.detail(run, answers) for run, answers in picked]
    figures = [
        *curves,
        *(one.drawn for one in compared if one.drawn is not None),
        *(drawn for detail in looked_at for drawn in detail.figures),
    ]
    about = index.About(
        subject=_subject(runs.frame),
        runs=len(runs.frame),
        unfinished=len(runs.unfinished) + len(damaged),
        begun=_period(runs.frame),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    files = {
        "runs.csv": formats.spreadsheet(runs.frame),
        "table.md": formats.markdown(tables),
        "table.csv": formats.csv(cells),
        "table.tex": formats.latex(tables),
        "comparison.csv": comparison_tables.csv(comparisons),
        index.ABOUT: about.text(),
        index.PAGE: rendered(
            "report.html.jinja",
            report=about,
            made_by=shlex.join(["python", "-m", "src.report", *map(str, places)]),
            filters=leaderboard.filters(cells),
            contributed=list(contributed.contributed(runs.frame)),
            merged=runs.notes,
            everything=drawn_from(runs.frame),
            parts=parts,
            curves=curves,
            about_comparisons=comparison_tables.ABOUT,
            compared=compared,
            details=looked_at,
            attention_drawn=any(run["attention_drawn"] for run, _ in picked),
            left_out=left_out,
            unfinished=[*runs.unfinished, *damaged],
        ),
    }
    drawings = {f"{FIGURES}/{drawn.file}": drawn.content for drawn in figures}
    texts = {name: text.encode() for name, text in files.items()}
    for name, content in (drawings | texts).items():
        with replacing(output / name) as temporary:
            temporary.write_bytes(content)
    _remove_earlier(output / FIGURES, {drawn.file for drawn in figures})
    return output / index.PAGE


def _remove_earlier(folder: Path, written: set[str]) -> None:
    """Remove the figures that an earlier report left in `folder`; other files stay."""
    from src.results import plots

    for path in [*folder.glob("*.svg"), *folder.glob("*.png")]:
        if path.name not in written and plots.CREATOR.encode() in path.read_bytes():
            path.unlink(missing_ok=True)


def _subject(runs: pd.DataFrame) -> str:
    parts = {name: list(runs[name].unique()) for name in ("dataset", "backbone", "method")}
    protocols = list(runs["protocol"].unique())
    if any(map(in_words, protocols)):
        parts["protocol"] = protocols
    return ", ".join(
        " and ".join(names) if len(names) <= 2 else f"{len(names)} {kind}s"
        for kind, names in parts.items()
    )


def _period(runs: pd.DataFrame) -> str:
    first, last = (str(when)[:16].replace("T", " ") for when in _ends(runs["started_at"]))
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def _ends(times: pd.Series) -> tuple[Any, Any]:
    return times.min(), times.max()


def _part(
    protocol: str,
    runs: pd.DataFrame,
    cells: pd.DataFrame,
    comparisons: Sequence[comparison.Comparison],
) -> Part:
    tables = [*summary_tables.by_dataset(cells), *summary_tables.by_shots(cells)]
    source = None if cells.empty else cells["cell"].iloc[0].source  # one for all of them
    read = reading(protocol)
    return Part(
        heading=read.heading,
        about=f"{protocol}: {read.about}" if read.about else "",
        protocol=protocol,
        tables=tables,
        boards=leaderboard.boards(tables, comparisons),
        notes=formats.notes(tables),
        runs=_listed(runs, source),
        published=None if source is None else describe(source),
    )


def _compared(one: comparison.Comparison, runs: pd.DataFrame) -> Compared:
    from src.results import plots

    ranks = comparison_tables.ranks(one)
    drawn = None
    if len(ranks.rows) > 2:
        place = (one.backbone, in_words(one.protocol), one.adapted_on, f"{one.shots}_shots")
        of = runs[
            (runs["protocol"] == one.protocol)
            & (runs["backbone"] == one.backbone)
            & runs["shots"].isin([0, one.shots])
        ]
        drawn = Drawn(
            f"{slug('ranks', *filter(None, place))}.svg",
            comparison_tables.caption(one),
            plots.average_ranks(one.ranks, one.groups, comparison_tables.critical_difference(one)),
            drawn_from(of),
            ranks,
        )
    return Compared(
        one.title,
        ranks,
        comparison_tables.pairs(one),
        [*comparison_tables.overall(one), *comparison_tables.notes(one)],
        drawn,
        {"protocol": one.protocol, "backbone": one.backbone},
    )


def _curves(runs: pd.DataFrame, cells: pd.DataFrame) -> list[Drawn]:
    """Draw accuracy by shots, where there are several; the average over datasets comes first."""
    from src.results import plots

    styles = list(cells["label"].unique())
    drawn: list[Drawn] = []
    for place, group in cells.groupby(["protocol", "backbone", "task"], sort=False):
        protocol, backbone, task = map(str, place)
        if group["shots"].nunique() - (0 in set(group["shots"])) < 2:
            continue
        average = task not in set(runs["task"])
        chosen = (runs["protocol"] == protocol) & (runs["backbone"] == backbone)
        chosen &= runs["label"].isin(group["label"])
        of = runs[chosen & (average | (runs["task"] == task))]
        svg = plots.accuracy_by_shots(group, styles, reading(protocol).quantity)
        where = list(filter(None, (backbone, in_words(protocol))))
        name = f"{slug('accuracy', *where, task)}.svg"
        about = {"protocol": protocol, "backbone": backbone} | (
            {} if average else {"dataset": task}
        )
        title = f"Accuracy by shots: {', '.join([task, *where])}."
        behind = numbers.accuracy_by_shots(group)
        one = Drawn(name, title, svg, drawn_from(of), behind, about)
        drawn.insert(0 if average else len(drawn), one)
    return drawn


def _listed(runs: pd.DataFrame, source: str | None) -> list[dict[str, str]]:
    """Give the list of all runs of a protocol, without the columns that are empty."""
    protocol = str(runs["protocol"].iloc[0])
    own, metrics = columns(protocol), reading(protocol).metrics
    published = dict(zip(metrics, ["published"], strict=True)) if len(metrics) == 1 else {}
    published |= {name: f"published {HEADINGS[name]}" for name in metrics if name not in published}
    cells = runs.assign(
        **{metric.name: runs[metric.name].map(metric.text) for metric in own},
        **{
            heading: summary.published_by(runs, source, name) for name, heading in published.items()
        },
        git_revision=runs["git_revision"].map(commit),
    )
    cells[reading(protocol).metric] = runs.apply(score, axis=1)
    cells = cells.map(number)
    headings = {
        **RUN,
        **{metric.name: metric.heading for metric in own},
        "validation_accuracy": "validation",
        "zero_shot": "zero-shot",
        "balance": "images per class",
        **{heading: heading for heading in published.values()},
        **BESIDE,
    }
    shown = [name for name in headings if (cells[name] != "").any()]
    rows: list[dict[str, str]] = cells[shown].rename(columns=headings).to_dict("records")
    return rows
