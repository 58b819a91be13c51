"""The order of work in a sweep: what its jobs need is extracted first, each entry of it once.

Before the jobs, the same launcher is given other work. First it plans: for each dataset and
backbone it is found out which entries of the feature store the jobs need and which of them are
missing. Then it extracts these, the largest first; no two extractions have an entry in common, so
none waits for another. The jobs then find everything in the store. Neither planning nor extracting
is a job of the sweep: they have no number and no line in its journal, and what goes wrong in them
goes wrong again, and is told, in the jobs that need it.
"""

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig

from src.hints import without_hints
from src.job.batch import compose_job
from src.job.launching import be_worker

OF_THE_DATASET = ("backbone", "dataset", "eval_dataset", "experiment", "on_bad_image", "paths")
"""Jobs that differ in one of these share no entry, or hardly any."""
DRAWN = ("shots=", "seed=")
"""Overrides that are cheaper to set than to compose a configuration with."""
FOLDER = ".features"
"""Below the sweep's folder: the logs of this work, as long as it lasts."""

log = logging.getLogger(__name__)

Numbered = tuple[int, list[str]]
"""A job's number and its overrides."""


class Extraction(NamedTuple):
    """What is missing from the store, and of what is asked for first by one job.

    Attributes:
        job: that job.
        folders: of the entries.
        images: how many images and prompts are to be encoded.
    """

    job: Numbered
    folders: list[str]
    images: int


def extract_first(
    config: DictConfig, jobs: Sequence[list[str]], finished: Collection[int] = ()
) -> None:
    """Plan and extract by the sweep's launcher, unless no two of its jobs can share anything.

    Args:
        config: of the sweep, as Hydra gives it to callbacks.
        jobs: the overrides of each job.
        finished: numbers of the jobs that an earlier start of the sweep has finished.
    """
    groups: dict[tuple[str, ...], list[Numbered]] = defaultdict(list)
    for number, job in enumerate(jobs):
        if number not in finished:
            own = tuple(one for one in job if one.lstrip("+~").startswith(OF_THE_DATASET))
            groups[own].append((number, job))
    shared = [group for group in groups.values() if len(group) > 1]
    if not shared:
        return
    try:
        found = _launch(config, Plan(config, shared), [group[0][1] for group in shared])
        extractions = sorted((one for some in found for one in some), key=lambda one: -one.images)
        if extractions:
            _launch(config, Extract(config, extractions), [one.job[1] for one in extractions])
    except Exception as error:
        log.warning(
            "the features could not be extracted before the jobs (%s: %s): each job extracts what "
            "it needs", type(error).__name__, error,
        )  # fmt: skip


def _launch(
    config: DictConfig, task: Callable[[DictConfig], Any], overrides: Sequence[Sequence[str]]
) -> list[Any]:
    """Have the sweep's launcher call `task` once for each of the overrides; return the answers."""
    context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
    launcher = Plugins.instance().instantiate_launcher(context, task, config)
    jobs = [[*own, f"hydra.sweep.subdir={FOLDER}/{number}"] for number, own in enumerate(overrides)]
    try:
        return [done.return_value for done in launcher.launch(jobs, initial_job_idx=0)]
    finally:
        shutil.rmtree(Path(config.hydra.sweep.dir) / FOLDER, ignore_errors=True)


class Plan:
    """Finds out what is missing for a group of jobs; a launcher calls it in some process."""

    def __init__(self, config: DictConfig, groups: Sequence[Sequence[Numbered]]) -> None:
        """Take the sweep's configuration and the groups, one for each call."""
        self.config, self.groups = config, groups

    def __call__(self, cfg: DictConfig) -> list[Extraction]:
        """Plan the group whose number is that of the call."""
        group = self.groups[_begin(cfg)]
        jobs = dict(group)
        return [
            Extraction(
                (first, jobs[first]),
                [str(need.entry.path) for need in needs],
                sum(need.to_encode for need in needs),
            )
            for first, needs in _plan(self.config, group).items()
        ]


class Extract:
    """Extracts what one job needs and no other extraction does; a launcher calls it likewise."""

    def __init__(self, config: DictConfig, extractions: Sequence[Extraction]) -> None:
        """Take the sweep's configuration and the extractions, one for each call."""
        self.config, self.extractions = config, extractions

    def __call__(self, cfg: DictConfig) -> None:
        """Do the extraction whose number is that of the call."""
        one = self.extractions[_begin(cfg)]
        planned = _plan(self.config, [one.job]).get(one.job[0], [])
        with without_hints():
            for need in planned:
                if str(need.entry.path) in one.folders:
                    try:
                        need.extract()
                    except Exception:
                        log.debug("not extracted: %s", need.entry.path, exc_info=True)


def _begin(cfg: DictConfig) -> int:
    """Be in a launcher's process as a job is, and give the number of the call."""
    present = HydraConfig.get()
    be_worker(cfg)
    os.chdir(present.runtime.cwd)  # hydra.job.chdir=true moves no path that was given
    return int(present.job.num)


def _plan(config: DictConfig, jobs: Sequence[Numbered]) -> dict[int, Any]:
    """Plan what jobs need, in silence; a job that would fail needs nothing."""
    from src.job.planner import Planner, check

    planner = Planner()
    composed: dict[tuple[str, ...], tuple[DictConfig, Any]] = {}
    with _silence(), without_hints():
        for number, overrides in jobs:
            drawn = [one for one in overrides if one.startswith(DRAWN)]
            others = tuple(one for one in overrides if one not in drawn)
            try:
                if others not in composed:
                    job = compose_job(config, number, others)
                    check(job)
                    composed[others] = job, HydraConfig.instance().cfg
                job, HydraConfig.instance().cfg = composed[others]
                job = job.copy()
                job.merge_with_dotlist(drawn)
                planner.note(job, number)
            except Exception:
                log.debug("not planned: %s", overrides, exc_info=True)
        try:
            return planner.plan()
        except Exception:
            log.debug("not planned", exc_info=True)
            return {}


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what would be said of jobs to those."""
    ours = logging.getLogger("src")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(level)
