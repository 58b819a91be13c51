"""A closer look at single runs: which ones a report shows, and what it shows of each."""

import logging
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from src.errors import UserError
from src.results import frame, numbers, outcome, summary
from src.results.comparison_tables import Text
from src.results.drawn import Drawn, DrawnFrom, drawn_from, number, slug
from src.results.marks import marks
from src.results.metrics import ALL
from src.results.names import shown
from src.results.protocols import HEADINGS, columns, in_words, reading

PLACE = {"dataset": "task", "method": "label", "backbone": "backbone"}
"""The filters of a page, and the columns of the frame that they look at."""

log = logging.getLogger(__name__)

DETAILED = 6
"""How many runs are shown one by one, at most."""
HYPERPARAMETERS = "hyperparameters."
"""What the frame's columns of a head's settings begin with."""


class Detail(NamedTuple):
    """A closer look at one run, from which all its figures are drawn.

    Attributes:
        title: which run it is.
        score: what it is compared by.
        note: what its other metrics and its figures are of, where that is not plain.
        facts: its metrics and settings.
        drawn_from: the run.
        figures: those of its answers.
        place: what it is about, by the filters of a page.
    """

    title: str
    score: str
    note: str
    facts: dict[str, str]
    drawn_from: DrawnFrom
    figures: list[Drawn]
    place: dict[str, str]


def read_picked(
    runs: pd.DataFrame,
) -> tuple[list[tuple[pd.Series, outcome.Outcome]], int, list[frame.Unfinished]]:
    """Read the answers of the runs that are shown one by one.

    Returns:
        Those runs, how many more there would be, and those whose answers are damaged, in whose
        place others are shown.
    """
    damaged: list[frame.Unfinished] = []
    while True:
        picked, left_out = pick(runs)
        read = []
        for row, run in picked.iterrows():
            try:
                read.append((run, read_answers(run)))
            except UserError as error:
                log.warning("%s The figures of that run are left out.", error)
                why = f"{error} The run's figures are left out, its result is not."
                damaged.append(frame.Unfinished(run["folder"], run["command"], why))
                runs = runs.drop(index=row)
        if len(read) == len(picked):
            return read, left_out, damaged


def read_answers(run: pd.Series) -> outcome.Outcome:
    path = Path(run["folder"], outcome.FILE)
    answers = outcome.Outcome.read(path)
    for axis in answers.search_axes:
        if not number(run.get(f"{HYPERPARAMETERS}{axis}")):
            raise UserError(f"{path} tells of a search over {axis}, and the result does not.")
    return answers


def pick(runs: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Choose the runs that are shown one by one: for each method, the first seed at its most shots.

    Runs that drew their attention come before others.

    Returns:
        The runs, and how many more there would be.
    """
    held = runs[[Path(folder, outcome.FILE).is_file() for folder in runs["folder"]]]
    held = held.assign(attention_drawn=[bool(attention_of(folder)) for folder in held["folder"]])
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


def attention_of(folder: str) -> list[Path]:
    """List the pictures of its attention that a run drew, by the row of the test split."""
    from src.results import attention

    drawn = Path(folder, attention.FOLDER).glob("*.png")
    pictures = (path for path in drawn if path.stem.isdigit() and path.is_file())
    return sorted(pictures, key=lambda path: int(path.stem))


def detail(run: pd.Series, answers: outcome.Outcome) -> Detail:
    """Draw the answers of a run, and gather its metrics and settings."""
    from src.results import plots

    settings = {
        key.removeprefix(HYPERPARAMETERS): value
        for key, value in run.items()
        if key.startswith(HYPERPARAMETERS) and number(value)
    }
    protocol = str(run["protocol"])
    metric = reading(protocol).metric
    drawings: dict[str, tuple[str, bytes, Text | None]] = {
        "class_accuracy.svg": (
            "Accuracy by class.", plots.class_accuracy(answers), numbers.class_accuracy(answers)
        ),
        "confusion.svg": (
            "Confusion matrix.", plots.confusion(answers), numbers.confusion(answers)
        ),
        "reliability.svg": (
            "Reliability diagram.", plots.reliability(answers, run["ece"]),
            numbers.reliability(answers),
        ),
    }  # fmt: skip
    if answers.search is not None:
        chosen = [settings[axis] for axis in answers.search_axes]
        surface = plots.search(answers, chosen, run["selection"])
        title = "What the search saw, on the release's grid."
        drawings["search.svg"] = (title, surface, numbers.search(answers))
    for picture in attention_of(run["folder"]):
        title = (
            f"CALIP's attention over test image {picture.stem}, of the most probable classes: red "
            "positions get more than an equal share, blue ones less."
        )
        content = picture.read_bytes()
        behind = numbers.attention(content)
        drawings[f"attention_{picture.name}"] = (title, content, behind)
    where = list(filter(None, (run["task"], run["backbone"], in_words(protocol))))
    name = slug(*where, run["label"], f"{run['shots']}_shots")
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
        "temperature": number(run.get("calibration.temperature")),
        **{setting: number(value) for setting, value in settings.items()},
    }
    if pd.isna(run["validation_accuracy"]):
        del facts["validation"]
    if not facts["temperature"]:
        del facts["temperature"]
    return Detail(
        title=f"{', '.join(where)}: {shown(run['label'])}, shots={run['shots']}",
        score=("" if metric == "accuracy" else f"{HEADINGS[metric]} ") + f"{score(run)} %",
        note=f"{beside} So are the figures." if (beside := reading(protocol).beside) else "",
        facts=facts,
        drawn_from=drawn_from(run.to_frame().T, single=True),
        figures=[
            Drawn(f"{name}-{kind}", title, content, numbers=behind)
            for kind, (title, content, behind) in drawings.items()
        ],
        place={**{name: run[column] for name, column in PLACE.items()}, "protocol": protocol},
    )


def score(run: pd.Series) -> str:
    """Write what a run is compared by, with its signs."""
    name = reading(run["protocol"]).metric
    (metric,) = (one for one in ALL if one.name == name)
    return f"{metric.text(run[name])}{marks(run)}"
