"""All runs below some folders as one table, a row each; imports no torch."""

import json
import logging
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from src.config import WITHOUT_EFFECT
from src.errors import UserError
from src.files import CONFIG_DIR
from src.results.metrics import METRICS
from src.results.record import FAILURE, FILE, Result

log = logging.getLogger(__name__)

HYDRA = ".hydra"
OWN_COLUMN = {"seed", "shots", "selection.name", "eval_dataset", "method.settings"}
"""Keys of the configuration that no label needs: a column of the frame says it already."""
INTERPOLATION = "${"


class Unfinished(NamedTuple):
    """A job without a result that can be read: it failed, was interrupted, or is running."""

    folder: str
    command: str
    message: str


class Runs(NamedTuple):
    """What some folders hold.

    Attributes:
        frame: a row per run, in the order in which they began. The columns are the fields of
            `Result` (nested ones flattened: `hyperparameters.alpha`), where each metric has a
            column (`accuracy`; NaN where the record lacks it), and
            `folder`: where it lies;
            `task`: its dataset; for a head adapted on another one, `adapted on → dataset`;
            `label`: its method and, where the runs of a method differ in them, how it chose its
            settings and the settings that it was given; and that it was a partial test;
            `made_by`: the command of its sweep, or its own.
        unfinished: jobs without a result.
    """

    frame: pd.DataFrame
    unfinished: list[Unfinished]


def load(folders: Sequence[Path]) -> Runs:
    """Read every run below `folders`.

    Raises:
        UserError: a folder is missing, or there is no result below any.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is missing: give the output folder of runs or of a sweep.")
    found = {path.parent for folder in folders for path in folder.rglob(FILE)}
    jobs = {path.parent for folder in folders for path in folder.rglob(HYDRA)}
    runs, unfinished = [], []
    for folder in sorted(found, key=_natural):
        try:
            runs.append((Result.read(folder / FILE), folder))
        except UserError as error:
            log.warning("%s", error)
            unfinished.append(Unfinished(str(folder), _command(folder), str(error)))
    runs.sort(key=lambda run: run[0].started_at)
    rows = [_row(result, folder) for result, folder in runs]
    if not rows:
        raise UserError(
            f"there is no readable {FILE} below {', '.join(map(str, folders))}: give the output "
            "folder of runs or of a sweep."
        )
    unfinished += [_read_unfinished(folder) for folder in sorted(jobs - found, key=_natural)]
    numbers = ("validation_accuracy", "published", *(metric.name for metric in METRICS))
    frame = pd.json_normalize(rows).astype(dict.fromkeys(numbers, float))
    frame["task"] = [task_of(row) for row in rows]
    frame["label"] = _labels(frame)
    return Runs(frame, unfinished)


def _row(result: Result, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for field, value in asdict(result).items():
        metrics = {metric.name: result.metrics.get(metric.name) for metric in METRICS}
        row |= metrics if field == "metrics" else {field: value}
    made_by = _sweep_command(folder) or result.command
    return row | {"folder": str(folder), "made_by": made_by}


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def task_of(row: Mapping[str, Any]) -> str:
    """Name what a run was tested on, and adapted on if that is something else."""
    dataset, adapted_on = row["dataset"], row.get("adapted_on")
    return dataset if adapted_on in {None, "", dataset} else f"{adapted_on} → {dataset}"


def _labels(frame: pd.DataFrame) -> pd.Series:
    """Name the row of the tables that a run belongs to, so that only seeds are averaged."""
    labels = frame["method"].copy()
    ways = frame.groupby("method")["selection"].transform("nunique")
    labels[ways > 1] += " (" + frame["selection"] + ")"
    for _, group in frame.groupby(["task", "backbone", "method"]):
        settings = _told_apart_by(group)
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


def _told_apart_by(runs: pd.DataFrame) -> pd.DataFrame:
    """Find the settings in which runs of a method differ: a column each, a row per run.

    Configurations are compared among the runs of one version of the record. Another version of the
    code may call the same setting otherwise, so between versions only what the user gave counts.
    """
    configs = [_differing(same_version, _settings) for _, same_version in runs.groupby("version")]
    if len(configs) == 1:
        return configs[0]
    given = _differing(runs, _given)
    return given.join(pd.concat(configs).drop(columns=given.columns, errors="ignore"))


def _differing(runs: pd.DataFrame, read: Callable[[Path], dict[str, str]]) -> pd.DataFrame:
    settings = pd.DataFrame([read(Path(folder)) for folder in runs["folder"]], index=runs.index)
    return settings[[key for key in settings if settings[key].nunique(dropna=False) > 1]]


def _settings(folder: Path) -> dict[str, str]:
    """Flatten the configuration of a run; values as JSON, interpolations unresolved."""
    job = _job(folder)
    if job is None or not (job / HYDRA / "config.yaml").is_file():
        return {}
    leaves = _flatten(_yaml(job / HYDRA / "config.yaml"))
    return {key: value for key, value in leaves.items() if _tells_apart(key)}


def _given(folder: Path) -> dict[str, str]:
    """Give the settings that a run was given on the command line or by its recipe."""
    job = _job(folder)
    if job is None or not (job / HYDRA / "overrides.yaml").is_file():
        return {}
    overrides = map(str, _yaml(job / HYDRA / "overrides.yaml"))
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


def _command(folder: Path) -> str:
    job = _job(folder)
    if job is None or not (job / HYDRA / "overrides.yaml").is_file():
        return ""
    return _shell(_yaml(job / HYDRA / "overrides.yaml"))


def _read_unfinished(folder: Path) -> Unfinished:
    told: dict[str, str] = {}
    if (folder / FAILURE).is_file():
        try:
            told = dict(json.loads((folder / FAILURE).read_text()))
        except (json.JSONDecodeError, TypeError, ValueError):
            told = {"message": f"{FAILURE} is unreadable"}
    command = told.get("command") or _command(folder)
    return Unfinished(str(folder), command, told.get("message", "no result"))


def _sweep_command(folder: Path) -> str | None:
    job = _job(folder)
    parents = [] if job is None else job.parents[:2]
    return next((command for parent in parents if (command := _read_sweep(parent))), None)


@cache
def _read_sweep(folder: Path) -> str | None:
    """Read the command of a sweep from the `multirun.yaml` that Hydra leaves in its folder."""
    if not (folder / "multirun.yaml").is_file():
        return None
    return _shell(["-m", *_yaml(folder / "multirun.yaml")["hydra"]["overrides"]["task"]])


def _yaml(path: Path) -> Any:
    # OmegaConf takes fifteen times as long, which counts where there are hundreds of runs.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(), Loader=loader)  # noqa: S506


def _shell(arguments: Sequence[Any]) -> str:
    return shlex.join(["python", "-m", "src.run", *map(str, arguments)])
