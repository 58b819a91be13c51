"""All runs below some folders as one table, a row each; imports no torch."""

import json
import logging
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from src.config import ADDED_LATER, WITHOUT_EFFECT
from src.errors import UserError
from src.files import CONFIG_DIR
from src.results import merging, submission
from src.results.metrics import ALL
from src.results.protocols import BASE, NEW, published_figures
from src.results.record import FAILURE, FILE, Result

log = logging.getLogger(__name__)

HYDRA = ".hydra"
OWN_COLUMN = {
    "seed", "shots", "selection.name", "eval_dataset", "method.settings", "protocol.name",
    "protocol.imbalance", "stream.name",
}  # fmt: skip
"""Keys of the configuration that no label needs: a column of the frame says it already."""
INTERPOLATION = "${"
DEEPEST = 50
"""How deeply a configuration may be nested."""


class Unfinished(NamedTuple):
    """A job without a result that can be read: it failed, was interrupted, or is running."""

    folder: str
    command: str
    message: str


class Settings(NamedTuple):
    """What a run was configured by.

    Attributes:
        all: its configuration, flattened; values as JSON, interpolations unresolved.
        given: what was given on the command line or by its recipe.
    """

    all: dict[str, str]
    given: dict[str, str]


class Runs(NamedTuple):
    """What some folders hold.

    Attributes:
        frame: a row per run, in the order in which they began. The columns are the fields of
            `Result` (nested ones flattened: `hyperparameters.alpha`), where each metric has a
            column (`accuracy`; NaN where the record lacks it), and
            `folder`: where it lies;
            `task`: its dataset; for a head adapted on another one, `adapted on → dataset`;
            `label`: its method and, where the runs of a method differ in them within a protocol,
            how it chose its settings and the settings that it was given; and that it was a partial
            test;
            `published_new_by_source`: the same of the new classes, by `protocol=base_to_new`, where
            `published_by_source` is of the base classes;
            `validation_free`: see `Result`;
            `made_by`: the command of its sweep, or its own;
            `measured_by`: the file of results that it was read from; empty for one below a folder.
        unfinished: jobs without a result.
        notes: which results stand in several places, and which of these disagree.
    """

    frame: pd.DataFrame
    unfinished: list[Unfinished]
    notes: Sequence[str] = ()


class Found(NamedTuple):
    """A run, where it lies, its configuration, and the file of results that it is a line of."""

    result: Result
    place: str
    settings: Settings
    measured_by: str = ""


def load(places: Sequence[Path]) -> Runs:
    """Read every run below folders and in files of results, as `src.results.submission` has them.

    Raises:
        UserError: a folder is missing, or there is no result in any place.
    """
    files = [place for place in dict.fromkeys(places) if place.suffix == submission.SUFFIX]
    runs, unfinished = _below([place for place in places if place not in files])
    for file in files:
        submitted, message = submission.read(file)
        runs += [_found(one) for one in submitted]
        if message:
            log.warning("%s", message)
            unfinished.append(Unfinished(str(file), "", message))
    if not runs:
        raise UserError(
            f"there is no readable {FILE} below {', '.join(map(str, places))}: give the output "
            f"folder of runs or of a sweep, or a file of results (*{submission.SUFFIX})."
        )
    runs.sort(key=lambda run: run.result.started_at)
    frame = _frame(runs)
    kept, notes = merging.merge(frame)
    return Runs(kept, unfinished, notes)


def _found(one: submission.Submitted) -> Found:
    given = _effective(shlex.split(one.result.command)[len(submission.COMMAND) :])
    return Found(one.result, one.place, Settings(given, given), one.file)


def _below(folders: Sequence[Path]) -> tuple[list[Found], list[Unfinished]]:
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is missing: give the output folder of runs or of a sweep.")
    results = {path for folder in folders for path in folder.rglob(FILE) if path.is_file()}
    found = {path.parent for path in results}
    jobs = {path.parent for folder in folders for path in folder.rglob(HYDRA)}
    runs, unfinished = [], []
    for folder in sorted(found, key=_natural):
        try:
            result = Result.read(folder / FILE)
            settings = Settings(_settings(folder), _effective(_overrides(folder)))
            runs.append(Found(result, str(folder), settings))
        except UserError as error:
            log.warning("%s", error)
            unfinished.append(Unfinished(str(folder), _command(folder), str(error)))
    unfinished += [_read_unfinished(folder) for folder in sorted(jobs - found, key=_natural)]
    return runs, unfinished


def _frame(runs: Sequence[Found]) -> pd.DataFrame:
    rows = [_row(run) for run in runs]
    numbers = (
        "validation_accuracy",
        "published",
        "zero_shot",
        *(metric.name for metric in ALL),
    )
    frame = pd.json_normalize(rows).astype(dict.fromkeys(numbers, float))
    frame["task"] = [task_of(row) for row in rows]
    frame["validation_free"] = frame["selection"] == "validation_free"
    frame["backbone"] = merging.told_apart(frame)
    frame["label"] = _labels(frame, [run.settings for run in runs])
    return frame


def _row(run: Found) -> dict[str, Any]:
    result = run.result
    row: dict[str, Any] = {}
    for field, value in asdict(result).items():
        metrics = {metric.name: result.metrics.get(metric.name) for metric in ALL}
        row |= metrics if field == "metrics" else {field: value}
    figures = published_figures(result)
    if BASE in figures:
        row |= {"published_by_source": figures[BASE], "published_new_by_source": figures[NEW]}
    made_by = None if run.measured_by else _sweep_command(Path(run.place))
    return row | {
        "folder": run.place,
        "made_by": made_by or result.command,
        "measured_by": run.measured_by,
        "balance": result.balance,
    }


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def task_of(row: Mapping[str, Any]) -> str:
    """Name what a run was tested on, and adapted on if that is something else."""
    dataset, adapted_on = row["dataset"], row.get("adapted_on")
    return dataset if adapted_on in {None, "", dataset} else f"{adapted_on} → {dataset}"


def _labels(frame: pd.DataFrame, runs: Sequence[Settings]) -> pd.Series:
    """Name the row of the tables that a run belongs to, so that only seeds are averaged."""
    labels = frame["method"].copy()
    ways = frame.groupby(["protocol", "method"])["selection"].transform("nunique")
    labels[ways > 1] += " (" + frame["selection"] + ")"
    for _, group in frame.groupby(["protocol", "task", "backbone", "method"]):
        settings = _told_apart_by(group, runs)
        names = [key.rpartition(".")[2] for key in settings]
        short = names if len({*names}) == len(names) else list(settings)
        for row in group.index:
            shown = [
                f"{name}={value}"
                for name, value in zip(short, settings.loc[row], strict=True)
                if isinstance(value, str) and not value.startswith(INTERPOLATION)
            ]
            if shown:
                labels[row] += f" ({', '.join(shown)})"
    labels[frame["partial_test"]] += " (partial test)"
    return labels


def _told_apart_by(group: pd.DataFrame, runs: Sequence[Settings]) -> pd.DataFrame:
    """Find the settings in which runs of a method differ: a column each, a row per run.

    Configurations are compared among the runs of one version of the record. Another version of the
    code may call the same setting otherwise, so between versions only what the user gave counts;
    and so between folders and files of results, which have nothing else.
    """
    configs = [
        _differing(same_version, [runs[row].all for row in same_version.index])
        for _, same_version in group.groupby(["version", group["measured_by"] == ""])
    ]
    if len(configs) == 1:
        return configs[0]
    given = _differing(group, [runs[row].given for row in group.index])
    return given.join(pd.concat(configs).drop(columns=given.columns, errors="ignore"))


def _differing(group: pd.DataFrame, settings: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    columns = pd.DataFrame(settings, index=group.index)
    return columns[[key for key in columns if columns[key].nunique(dropna=False) > 1]]


def _settings(folder: Path) -> dict[str, str]:
    job = _job(folder)
    if job is None or not (job / HYDRA / "config.yaml").is_file():
        return {}
    leaves = _flatten(_yaml(job / HYDRA / "config.yaml", dict))
    unused = [key for key, in_use_by in ADDED_LATER.items() if leaves.get(in_use_by) == "null"]
    leaves = {key: value for key, value in leaves.items() if key not in unused}
    return {key: value for key, value in leaves.items() if _tells_apart(key)}


def _effective(overrides: Sequence[str]) -> dict[str, str]:
    """Give what overrides say beside choices and what no label needs."""
    given = [override.lstrip("+~").partition("=") for override in overrides]
    groups = {folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir()}
    return {key: value for key, _, value in given if key not in groups and _tells_apart(key)}


def _tells_apart(key: str) -> bool:
    return key not in OWN_COLUMN and key.partition(".")[0] not in WITHOUT_EFFECT


def _flatten(node: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(node, dict):
        text = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False)
        return {prefix.removesuffix("."): text}
    children = [_flatten(child, f"{prefix}{name}.") for name, child in node.items()]
    return {key: value for leaves in children for key, value in leaves.items()}


def _job(folder: Path) -> Path | None:
    """Find the job that a result belongs to: its folder, or the one that `eval/NAME` lies in."""
    return next((job for job in [folder, *folder.parents[:2]] if (job / HYDRA).is_dir()), None)


def _overrides(folder: Path) -> list[str]:
    job = _job(folder)
    if job is None or not (job / HYDRA / "overrides.yaml").is_file():
        return []
    return list(map(str, _yaml(job / HYDRA / "overrides.yaml", list)))


def _command(folder: Path) -> str:
    try:
        overrides = _overrides(folder)
    except UserError:
        return ""
    return _shell(overrides) if overrides else ""


def _read_unfinished(folder: Path) -> Unfinished:
    told: dict[str, str] = {}
    if (folder / FAILURE).is_file():
        try:
            told = dict(json.loads((folder / FAILURE).read_text()))
        except (OSError, RecursionError, TypeError, ValueError):
            told = {"message": f"{FAILURE} is unreadable"}
    command = told.get("command") or _command(folder)
    return Unfinished(str(folder), str(command), str(told.get("message", "no result")))


def _sweep_command(folder: Path) -> str | None:
    job = _job(folder)
    parents = [] if job is None else job.parents[:2]
    return next((command for parent in parents if (command := _read_sweep(parent))), None)


@cache
def _read_sweep(folder: Path) -> str | None:
    """Read the command of a sweep from the `multirun.yaml` that Hydra leaves in its folder."""
    path = folder / "multirun.yaml"
    if not path.is_file():
        return None
    try:
        return _shell(["-m", *_yaml(path, dict)["hydra"]["overrides"]["task"]])
    except (UserError, KeyError, TypeError) as error:
        log.warning("the command of the sweep in %s is not known: %r", folder, error)
        return None


def _yaml(path: Path, kind: type) -> Any:
    """Read a YAML file; its content is of this `kind`.

    Raises:
        UserError: it cannot be read, or is of another kind.
    """
    # OmegaConf takes fifteen times as long, which counts where there are hundreds of runs.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text()
        _check_events(yaml.parse(text, loader))
        content = yaml.load(text, Loader=loader)  # noqa: S506
        if not isinstance(content, kind):
            raise TypeError(f"it is no {kind.__name__}")
    except (OSError, RecursionError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read: {reason}.") from None
    return content


def _check_events(events: Iterable[yaml.Event]) -> None:
    """Check what would exhaust the machine when a YAML file is read.

    Raises:
        ValueError: it has aliases, a few lines of which can stand for more than memory holds; or
            it is nested so deeply that the reader in C crashes.
    """
    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent) or depth > DEEPEST:
            raise ValueError("it has aliases, or is nested too deeply")


def _shell(arguments: Sequence[Any]) -> str:
    return shlex.join(["python", "-m", "src.run", *map(str, arguments)])
