"""A report: the figures and tables of some runs in one folder, and all of it in one HTML page."""

import base64
import logging
import math
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from src.errors import UserError
from src.files import replacing
from src.results import comparison, comparison_tables, formats, frame, outcome, summary
from src.results.marks import marks
from src.results.metrics import ALL
from src.results.protocols import HEADINGS, columns, in_words, reading
from src.results.published import describe

log = logging.getLogger(__name__)

PAGE = "report.html"
FIGURES = "figures"
FOLDER = "report"
"""Where a report lies, below the first of the folders that it is about."""
DETAILED = 6
"""How many runs are shown one by one, at most."""
COMMANDS = 3
"""How many commands stand below a figure, at most."""
HYPERPARAMETERS = "hyperparameters."
"""What the frame's columns of a head's settings begin with."""
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
    """

    file: str
    title: str
    content: bytes
    drawn_from: DrawnFrom | None = None

    @property
    def url(self) -> str:
        kind = "image/png" if self.file.endswith(".png") else "image/svg+xml"
        return f"data:{kind};base64,{base64.b64encode(self.content).decode()}"


class Detail(NamedTuple):
    """A closer look at one run, from which all its figures are drawn.

    Attributes:
        title: which run it is.
        score: what it is compared by.
        note: what its other metrics and its figures are of, where that is not plain.
        facts: its metrics and settings.
        drawn_from: the run.
        figures: those of its answers.
    """

    title: str
    score: str
    note: str
    facts: dict[str, str]
    drawn_from: DrawnFrom
    figures: list[Drawn]


class Part(NamedTuple):
    """What a report says of the runs of one protocol.

    Attributes:
        heading: that of its tables.
        about: what the protocol is; empty for the usual one.
        tables: the accuracies.
        notes: the meaning of their signs.
        runs: the list of all runs, by heading.
        published: what the published accuracies are from, None where there are none.
    """

    heading: str
    about: str
    tables: list[summary.Table]
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
    """

    title: str
    ranks: comparison_tables.Text
    pairs: comparison_tables.Text
    notes: list[str]
    drawn: Drawn | None


def write_report(folders: Sequence[Path], output: Path) -> Path:
    """Write the report on every run below `folders` into `output`; returns the page's path.

    `runs.csv` has a row per run. `table.md`, `table.csv` and `table.tex` have the accuracies,
    `comparison.csv` has the methods in pairs, and `figures/` has the figures. `report.html` has
    everything, and needs no other file.

    Raises:
        UserError: a folder is missing, or holds no result.
    """
    runs = frame.load(folders)
    cells = summary.summarise(runs.frame)
    parts = [
        _part(str(protocol), group, cells[cells["protocol"] == protocol])
        for protocol, group in runs.frame.groupby("protocol", sort=False)
    ]
    tables = [table for part in parts for table in part.tables]
    comparisons = comparison.compare(runs.frame)
    compared = [_compared(one, runs.frame) for one in comparisons]
    picked, left_out, damaged = _read_picked(runs.frame)
    curves = _curves(runs.frame, cells)
    details = [_detail(run, answers) for run, answers in picked]
    figures = [
        *curves,
        *(one.drawn for one in compared if one.drawn is not None),
        *(drawn for detail in details for drawn in detail.figures),
    ]
    page = _environment().get_template("report.html.jinja")
    files = {
        "runs.csv": formats.spreadsheet(runs.frame),
        "table.md": formats.markdown(tables),
        "table.csv": formats.csv(cells),
        "table.tex": formats.latex(tables),
        "comparison.csv": comparison_tables.csv(comparisons),
        PAGE: page.render(
            subject=_subject(runs.frame),
            period=_period(runs.frame),
            made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            made_by=shlex.join(["python", "-m", "src.report", *map(str, folders)]),
            everything=_drawn_from(runs.frame),
            parts=parts,
            curves=curves,
            about_comparisons=comparison_tables.ABOUT,
            compared=compared,
            details=details,
            attention_drawn=any(run["attention_drawn"] for run, _ in picked),
            left_out=left_out,
            unfinished=[*runs.unfinished, *damaged],
            count=len(runs.frame),
        ),
    }
    drawings = {f"{FIGURES}/{drawn.file}": drawn.content for drawn in figures}
    texts = {name: text.encode() for name, text in files.items()}
    for name, content in (drawings | texts).items():
        with replacing(output / name) as temporary:
            temporary.write_bytes(content)
    _remove_earlier(output / FIGURES, {drawn.file for drawn in figures})
    return output / PAGE


def _remove_earlier(folder: Path, written: set[str]) -> None:
    """Remove the figures that an earlier report left in `folder`; other files stay."""
    from src.results import plots

    for path in [*folder.glob("*.svg"), *folder.glob("*.png")]:
        if path.name not in written and plots.CREATOR.encode() in path.read_bytes():
            path.unlink(missing_ok=True)


def _environment() -> Environment:
    loader = PackageLoader("src.results", ".")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined)


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


def _drawn_from(runs: pd.DataFrame, single: bool = False) -> DrawnFrom:
    commands = list(runs["command" if single else "made_by"].unique())
    more = len(commands) - COMMANDS
    if more > 0:
        commands = [*commands[:COMMANDS], f"... and {more} more commands: see the list of all runs"]
    commits = [_commit(revision) for revision in runs["git_revision"].unique()]
    of = f"{len(runs)} runs" if len(runs) > 1 else str(runs["folder"].iloc[0])
    return DrawnFrom(of, ", ".join(commits), commands)


def _commit(revision: Any) -> str:
    if not isinstance(revision, str):
        return "unknown"
    commit, _, dirty = revision.partition("-")
    return commit[:12] + (" with uncommitted changes" if dirty else "")


def _part(protocol: str, runs: pd.DataFrame, cells: pd.DataFrame) -> Part:
    tables = [*summary.by_dataset(cells), *summary.by_shots(cells)]
    source = None if cells.empty else cells["cell"].iloc[0].source  # one for all of them
    read = reading(protocol)
    return Part(
        heading=read.heading,
        about=f"{protocol}: {read.about}" if read.about else "",
        tables=tables,
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
            f"{_slug('ranks', *filter(None, place))}.svg",
            comparison_tables.caption(one),
            plots.average_ranks(one.ranks, one.groups),
            _drawn_from(of),
        )
    return Compared(
        one.title, ranks, comparison_tables.pairs(one), comparison_tables.notes(one), drawn
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
        name = f"{_slug('accuracy', *where, task)}.svg"
        one = Drawn(name, f"{', '.join([task, *where])}.", svg, _drawn_from(of))
        drawn.insert(0 if average else len(drawn), one)
    return drawn


def _read_picked(
    runs: pd.DataFrame,
) -> tuple[list[tuple[pd.Series, outcome.Outcome]], int, list[frame.Unfinished]]:
    """Read the answers of the runs that are shown one by one.

    Returns:
        Those runs, how many more there would be, and those whose answers are damaged, in whose
        place others are shown.
    """
    damaged: list[frame.Unfinished] = []
    while True:
        picked, left_out = _pick(runs)
        read = []
        for row, run in picked.iterrows():
            try:
                read.append((run, _read_answers(run)))
            except UserError as error:
                log.warning("%s The figures of that run are left out.", error)
                why = f"{error} The run's figures are left out, its result is not."
                damaged.append(frame.Unfinished(run["folder"], run["command"], why))
                runs = runs.drop(index=row)
        if len(read) == len(picked):
            return read, left_out, damaged


def _read_answers(run: pd.Series) -> outcome.Outcome:
    path = Path(run["folder"], outcome.FILE)
    answers = outcome.Outcome.read(path)
    for axis in answers.search_axes:
        if not _number(run.get(f"{HYPERPARAMETERS}{axis}")):
            raise UserError(f"{path} tells of a search over {axis}, and the result does not.")
    return answers


def _pick(runs: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Choose the runs that are shown one by one: for each method, the first seed at its most shots.

    Runs that drew their attention come before others.

    Returns:
        The runs, and how many more there would be.
    """
    held = runs[[Path(folder, outcome.FILE).is_file() for folder in runs["folder"]]]
    held = held.assign(attention_drawn=[bool(_attention(folder)) for folder in held["folder"]])
    by = ["attention_drawn", "shots", "seed"]
    by_shots = held.sort_values(by, ascending=[False, False, True], kind="stable")
    place = ["protocol", "backbone", "task"]
    first = by_shots.drop_duplicates([*place, "label"]).sort_index()
    first = first.assign(compared=summary.compared(first))
    rank = first.groupby(place)["compared"].rank(ascending=False, method="first")
    by, ascending = ["attention_drawn", "rank"], [False, True]
    ranked = first.assign(rank=rank).sort_values(by, ascending=ascending, kind="stable")
    picked = ranked.head(DETAILED).sort_index()
    return picked, len(first) - len(picked)


def _attention(folder: str) -> list[Path]:
    """List the pictures of its attention that a run drew, by the row of the test split."""
    from src.results import attention

    drawn = Path(folder, attention.FOLDER).glob("*.png")
    pictures = (path for path in drawn if path.stem.isdigit() and path.is_file())
    return sorted(pictures, key=lambda path: int(path.stem))


def _detail(run: pd.Series, answers: outcome.Outcome) -> Detail:
    from src.results import plots

    settings = {
        key.removeprefix(HYPERPARAMETERS): value
        for key, value in run.items()
        if key.startswith(HYPERPARAMETERS) and _number(value)
    }
    protocol = str(run["protocol"])
    metric = reading(protocol).metric
    drawings = {
        "class_accuracy.svg": ("Accuracy by class.", plots.class_accuracy(answers)),
        "confusion.svg": ("Confusion matrix.", plots.confusion(answers)),
        "reliability.svg": ("Reliability diagram.", plots.reliability(answers, run["ece"])),
    }
    if answers.search is not None:
        chosen = [settings[axis] for axis in answers.search_axes]
        surface = plots.search(answers, chosen, run["selection"])
        drawings["search.svg"] = ("What the search saw, on the release's grid.", surface)
    for picture in _attention(run["folder"]):
        title = f"CALIP's attention over test image {picture.stem}."
        drawings[f"attention_{picture.name}"] = (title, picture.read_bytes())
    where = list(filter(None, (run["task"], run["backbone"], in_words(protocol))))
    name = _slug(*where, run["label"], f"{run['shots']}_shots")
    facts = {
        **{
            one.heading: text + one.unit
            for one in columns(protocol)
            if one.name != metric and (text := one.text(run[one.name]))
        },
        "validation": f"{run['validation_accuracy']:.2f} %",
        "selection": run["selection"],
        "test images": f"{run['n_test']:,}",
        "seed": str(run["seed"]),
        "temperature": _number(run.get("calibration.temperature")),
        **{setting: _number(value) for setting, value in settings.items()},
    }
    if pd.isna(run["validation_accuracy"]):
        del facts["validation"]
    if not facts["temperature"]:
        del facts["temperature"]
    return Detail(
        title=f"{', '.join(where)}: {run['label']}, shots={run['shots']}",
        score=("" if metric == "accuracy" else f"{HEADINGS[metric]} ") + f"{_score(run)} %",
        note=f"{beside} So are the figures." if (beside := reading(protocol).beside) else "",
        facts=facts,
        drawn_from=_drawn_from(run.to_frame().T, single=True),
        figures=[Drawn(f"{name}-{kind}", *drawing) for kind, drawing in drawings.items()],
    )


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
        git_revision=runs["git_revision"].map(_commit),
    )
    cells[reading(protocol).metric] = runs.apply(_score, axis=1)
    cells = cells.map(_number)
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


def _score(run: pd.Series) -> str:
    """Write what a run is compared by, with its signs."""
    name = reading(run["protocol"]).metric
    (metric,) = (one for one in ALL if one.name == name)
    return f"{metric.text(run[name])}{marks(run)}"


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _slug(*parts: str) -> str:
    words = "-".join(parts).replace("→", "to")
    return "".join(c if c.isalnum() or c in "_.=" else "-" for c in words).strip("-.")
