"""All runs below some folders as one table, a row each; imports no torch."""

import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from src.errors import UserError
from src.results.record import FILE, Result

log = logging.getLogger(__name__)

FAILURE = "failure.json"
HYDRA = ".hydra"
# What tells no two experiments apart: it has a column of its own, or cannot change a figure.
NO_SETTING = re.compile(
    r"(seed|shots|selection\.name|eval_dataset|attention_images|save_predictions|force|group"
    r"|(paths|logger|trainer)\..*)"
)


class Unfinished(NamedTuple):
    """A job without a result that can be read: it failed, was interrupted, or is running."""

    folder: str
    command: str
    message: str


class Runs(NamedTuple):
    """What some folders hold.

    Attributes:
        frame: a row per run, in the order in which they began; the columns are the fields of
            `Result` (nested ones flattened: `hyperparameters.alpha`) and
            `folder`: where it lies;
            `task`: its dataset or, of a head adapted on another, `source → dataset`;
            `label`: its method and, where the runs of a method differ in them, how it chose its
            settings and the settings that it was given;
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
    rows = [
        asdict(result)
        | {"folder": str(folder), "made_by": _sweep_command(folder) or result.command}
        for result, folder in runs
    ]
    configs = [_settings(folder) for _, folder in runs]
    if not rows:
        raise UserError(
            f"there is no readable {FILE} below {', '.join(map(str, folders))}: give the output "
            "folder of runs or of a sweep."
        )
    unfinished += [_read_unfinished(folder) for folder in sorted(jobs - found, key=_natural)]
    frame = pd.json_normalize(rows).astype({"validation_accuracy": float, "published": float})
    frame["task"] = [task_of(row) for row in rows]
    frame["label"] = _labels(frame, configs)
    return Runs(frame, unfinished)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def task_of(row: Mapping[str, Any]) -> str:
    """Name what a run was tested on, and adapted on if that is something else."""
    dataset, source = row["dataset"], row.get("adapted_on")
    return dataset if source in {None, "", dataset} else f"{source} → {dataset}"


def _labels(frame: pd.DataFrame, configs: Sequence[Mapping[str, str]]) -> pd.Series:
    """Name the row of the tables that a run belongs to, so that only seeds are averaged."""
    labels = frame["method"].copy()
    ways = frame.groupby("method")["selection"].transform("nunique")
    labels[ways > 1] += " (" + frame["selection"] + ")"
    for _, group in frame.groupby(["task", "backbone", "method"]):
        settings = pd.DataFrame([configs[row] for row in group.index], index=group.index)
        differing = [key for key in settings if settings[key].nunique(dropna=False) > 1]
        names = [key.rpartition(".")[2] for key in differing]
        short = names if len({*names}) == len(names) else differing
        for row in group.index:
            given = zip(short, settings.loc[row, differing], strict=True)
            shown = [f"{name}={value}" for name, value in given if isinstance(value, str)]
            if shown:
                labels[row] += f" ({', '.join(shown)})"
    return labels


def _settings(folder: Path) -> dict[str, str]:
    """Flatten what a run was told; values as JSON, interpolations unresolved."""
    job = _job(folder)
    if job is None or not (job / HYDRA / "config.yaml").is_file():
        return {}
    leaves = _flatten(_yaml(job / HYDRA / "config.yaml"))
    return {key: value for key, value in leaves.items() if not NO_SETTING.fullmatch(key)}


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
