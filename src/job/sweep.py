"""The jobs of a sweep: finished ones are skipped, and a failed one stops no other. No torch.

A job has its own folder, named after its configuration, so that the same sweep started again in
the same folder finds what it has done. `jobs.jsonl` says how far the sweep is: its first line says
what was started, and each further line names a job that ended, in whatever process.
"""

import errno
import json
import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from src.command_line import EXPLANATIONS, explain, explaining, fail
from src.config import config_hash, rerun_command, run_group
from src.errors import UserError
from src.files import RECIPES, naming_full_disk, replacing, write_json
from src.job.batch import given, job_overrides
from src.job.earlier import finished_earlier
from src.job.folder import (
    CONFIGURATION,
    LOCK,
    claim,
    keep_configuration,
    mask_sweep_configuration,
)
from src.job.launching import be_worker, prepare
from src.job.order import extract_first
from src.masking import masked, masked_overrides
from src.results.ending import present
from src.results.record import FAILURE, FILE, NewerRecordError, Result

JOURNAL = "jobs.jsonl"

log = logging.getLogger(__name__)


class Started(NamedTuple):
    """The journal's first line.

    Attributes:
        jobs: how many there are.
        at: since when, in epoch seconds.
        command: what the user typed.
        group: the W&B group of all its runs.
    """

    jobs: int
    at: float
    command: str
    group: str


class Job(NamedTuple):
    """A line of the journal: the job's number within the sweep, its folder, how it ended."""

    number: int
    folder: str
    status: Literal["finished", "skipped", "failed"]


class Journal:
    """`jobs.jsonl` in a sweep's folder; processes of several machines may append to it.

    A network file system does not keep the lines of two machines apart, so writers take turns.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / JOURNAL
        self.lock = folder / f".{JOURNAL}.lock"

    def start(self, started: Started) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            temporary.write_text(_line(started))

    def add(self, job: Job) -> None:
        with FileLock(self.lock), self.path.open("a") as file:
            file.write(_line(job))

    def finished(self, command: str) -> set[int]:
        """Give the numbers of the jobs that `command` has finished here when it was last typed."""
        try:
            started, jobs = self.read()
        except (OSError, ValueError, TypeError):
            return set()
        same = started.command == command
        return {job.number for job in jobs if same and job.status != "failed"}

    def read(self) -> tuple[Started, list[Job]]:
        """Read it, with the jobs in the order of their numbers."""
        first, *rest = self.path.read_text().splitlines()
        jobs = {job.number: job for job in (Job(*json.loads(line)) for line in rest)}
        return Started(*json.loads(first)), sorted(jobs.values())


class Start(Callback):
    """Hydra's callback that takes the sweep's folder and begins the journal before the first job.

    Hydra turns the exceptions of a callback into warnings, so a mistake ends the program here.
    """

    folder: Path | None = None
    """Where the sweep that this process started has its jobs."""
    held = ExitStack()
    """Keeps other processes out of that folder, until this one ends or starts another sweep."""
    wandb: Mapping[str, str] | None = None
    """The W&B entity, project and group of its runs, if they are logged there."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with explaining():
            self._start(config)

    def _start(self, config: DictConfig) -> None:
        overrides = given(config)
        _check_recipes(overrides)
        jobs = job_overrides(config)
        prepare(config)
        folder = Path(config.hydra.sweep.dir)
        Start.held.close()
        Start.held.enter_context(claim(folder, "hydra.sweep.dir"))
        Start.folder = folder
        group = config.group or _group(config, overrides)
        if wandb := config.logger.get("wandb"):
            from src.results.loggers import check_login

            check_login(wandb)  # once, not for every job
            where = {key: wandb[key] for key in ("entity", "project") if wandb.get(key)}
            Start.wandb = {**where, "group": group}
        command = shlex.join(["python", "-m", "src.run", *masked_overrides(sys.argv[1:])])
        journal = Journal(folder)
        extract_first(config, jobs, journal.finished(command))
        journal.start(Started(len(jobs), time.time(), command, group))


def _explain(error: Exception) -> str | None:
    """Explain what happens where Hydra itself writes into the folder of a sweep."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left on the disk of {Start.folder or 'the outputs'}: free some."
    return None


EXPLANATIONS.append(_explain)


def _check_recipes(overrides: Sequence[Override]) -> None:
    """Refuse to sweep over recipes that are sweeps themselves: Hydra would run none of their jobs.

    Raises:
        UserError: there is such a recipe.
    """
    for override in overrides:
        if override.key_or_group != "experiment" or not override.is_sweep_override():
            continue
        for name in override.sweep_string_iterator():
            recipe = RECIPES / f"{name}.yaml"
            if recipe.is_file() and OmegaConf.select(OmegaConf.load(recipe), "hydra.sweeper"):
                raise UserError(
                    f"experiment={name} is a sweep of its own, which a sweep over recipes would "
                    f"not run: start each with `python -m src.run +experiment={name}`."
                )


def _group(config: DictConfig, overrides: Sequence[Override]) -> str:
    """Name the W&B group of a sweep's runs, as that of a single run if they could all be in it.

    If they differ in dataset, backbone or protocol, it is the sweep's folder:
    `2026-11-25/13-30-00-123456`.
    """
    swept = {re.split(r"[.@]", o.key_or_group)[0] for o in overrides if o.is_sweep_override()}
    if swept & {"dataset", "backbone", "protocol", "stream"}:
        return "/".join(Path(config.hydra.sweep.dir).absolute().parts[-2:])
    return run_group(config)


def run_job(cfg: DictConfig, run: Callable[[DictConfig], float]) -> float | None:
    """Run one job of a sweep unless it is finished; whatever goes wrong in it is written down.

    Returns:
        The accuracy (per cent), None if the job failed.
    """
    be_worker(cfg)
    if not cfg.force and (earlier := finished_earlier(cfg)):
        made = Path(cfg.paths.output)
        if {path.name for path in made.iterdir()} <= {f"{HydraConfig.get().job.name}.log"}:
            shutil.rmtree(made)  # Hydra has just made it, for its log
        return _skip(earlier)
    folder = _own_folder(cfg)
    if folder != Path(cfg.paths.output):
        folder.mkdir(exist_ok=True)
        cfg.paths.output = str(folder)
    # A process that outlived a killed sweep may still be at the job: its successor waits for it.
    with FileLock(folder / LOCK):
        return _run_unless_done(cfg, folder, run)


def _run_unless_done(
    cfg: DictConfig, folder: Path, run: Callable[[DictConfig], float]
) -> float | None:
    finished = _is_finished(folder)
    if finished and not (cfg.force and not _ended_in_this_sweep(folder)):
        return _skip(folder)
    if not finished:
        _clean(folder)
    mask_sweep_configuration(Path(HydraConfig.get().sweep.dir))
    keep_configuration(cfg, folder)
    cfg.group = _journal().read()[0].group
    try:
        with naming_full_disk(folder, Path(cfg.paths.features)):
            accuracy = run(cfg)
    except Exception as error:
        message = explain(error)
        if message is None:
            log.exception("this is a bug")
            message = f"{type(error).__name__}: {error}"
        failure = {"message": masked(message), "command": rerun_command(HydraConfig.get())}
        write_json(folder / FAILURE, failure)
        _tell("failed", f"failed: {message}", folder)
        return None
    (folder / FAILURE).unlink(missing_ok=True)
    _tell("finished", f"{accuracy:.2f} %", folder)
    return accuracy


def _own_folder(cfg: DictConfig) -> Path:
    """Give the folder of a job's name or, if that holds the result of another job, one beside it.

    The names may be the user's own (`hydra.sweep.subdir`), which do not tell all jobs apart.
    """
    folder = Path(cfg.paths.output)
    if not (folder / FILE).is_file():
        return folder
    own = config_hash(cfg)
    try:
        if Result.read(folder / FILE).config_hash == own:
            return folder
    except NewerRecordError as error:
        log.warning("%s", error)
    except UserError as error:
        log.warning("%s The job is run again.", error)
        return folder
    return folder.with_name(f"{folder.name}-{own}")


def _is_finished(folder: Path) -> bool:
    """Say whether a folder holds a result that can be read."""
    try:
        Result.read(folder / FILE)
    except UserError:
        return False
    return True


def _ended_in_this_sweep(folder: Path) -> bool:
    """Say whether a job of this sweep has the folder: jobs that differ in nothing share theirs."""
    _, jobs = _journal().read()
    return any(job.folder == _name(folder) for job in jobs)


def _skip(folder: Path) -> float:
    """Take the finished result in `folder` for that of this job."""
    accuracy = Result.read(folder / FILE).accuracy
    _tell("skipped", f"{accuracy:.2f} %, found in {folder}", folder)
    return accuracy


def _journal() -> Journal:
    return Journal(Path(HydraConfig.get().sweep.dir))


def _name(folder: Path) -> str:
    """Give a job's folder as the journal has it, relative to that of the sweep."""
    return os.path.relpath(folder, HydraConfig.get().sweep.dir)


def _clean(folder: Path) -> None:
    """Remove what an interrupted or failed attempt left; Hydra has just written its own files."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != CONFIGURATION:
            shutil.rmtree(path)


def _tell(status: Literal["finished", "skipped", "failed"], outcome: str, folder: Path) -> None:
    """Say how the job ended, and write it into the journal.

    Args:
        status: what the journal says.
        outcome: what the screen says.
        folder: where the result or the failure lies.
    """
    hydra, journal = HydraConfig.get(), _journal()
    journal.add(Job(hydra.job.num, _name(folder), status))
    started, jobs = journal.read()
    worked = sum(job.status != "skipped" for job in jobs)
    left = (started.jobs - len(jobs)) * (time.time() - started.at) / max(worked, 1)
    remaining = f", about {left / 60:.0f} min left" if left > 60 else ""
    name = hydra.job.override_dirname
    log.info("[%d/%d] %s: %s%s", len(jobs), started.jobs, name, outcome, remaining)


@contextmanager
def ending() -> Iterator[None]:
    """Show the results after the last job of a sweep, and before what crashed it.

    Raises:
        SystemExit: with code 2, if a job failed or did not end.
    """
    try:
        yield
    except BaseException:
        # The crash has a code and a reason of its own, and may have left a module half imported.
        with suppress(Exception, SystemExit), explaining():
            _end()
        raise
    with explaining():
        _end()


def _end() -> None:
    folder = Start.folder
    if folder is None:
        return
    with naming_full_disk(folder):
        _present(folder)


def _present(folder: Path) -> None:
    try:
        started, jobs = Journal(folder).read()
    except FileNotFoundError:
        return  # the sweep failed before it began, and has said so
    mask_sweep_configuration(folder)
    done = [folder / job.folder for job in jobs if job.status != "failed"]
    if done:
        found = dict.fromkeys(done)  # jobs that differ in nothing have one result
        page = present(folder, [path for each in found for path in _results(each)])
        if Start.wandb is not None:
            from src.results.loggers import log_sweep

            log_sweep(folder, page.parent, **Start.wandb)
    commands: dict[str, list[str]] = {}  # by message, because many jobs may fail alike
    for job in jobs:
        if job.status == "failed":
            message, command = _read_failure(folder / job.folder / FAILURE)
            commands.setdefault(message, []).append(f"  {command}")
    ended = f"{len(jobs)} of {started.jobs} jobs ended, {len(jobs) - len(done)} of them in failure."
    if commands or 0 < len(jobs) < started.jobs:
        lines = [ended]
        for message, those in commands.items():
            lines += [message, *those]
        lines += ["To run only the jobs that are not finished:", f"  {_again(started, folder)}"]
        fail("\n  ".join(lines))


def _read_failure(path: Path) -> tuple[str, str]:
    """Read why a job failed, and the command that runs it again."""
    try:
        failure = json.loads(path.read_text())
        return str(failure["message"]), str(failure["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path} cannot be read", "see run.log beside it"


def _results(job: Path) -> list[Path]:
    """Find a job's own result, then those of the further datasets that it was evaluated on."""
    return [job / FILE, *sorted(job.glob(f"eval/*/{FILE}"))]


def _again(started: Started, folder: Path) -> str:
    key = "hydra.sweep.dir"
    return started.command if key in started.command else f"{started.command} {key}={folder}"


def _line(record: tuple[Any, ...]) -> str:
    return json.dumps(record) + "\n"
