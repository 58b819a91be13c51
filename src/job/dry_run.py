"""`dry_run=true`: what a run or a sweep would extract and how long that takes, before any of it.

Hydra's own order of events makes folders before the first job. So this is a callback of Hydra,
which comes before those, prints the estimate and ends the program. Imports no torch at first.
"""

import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.command_line import explaining
from src.config import config_hash
from src.errors import UserError
from src.job.batch import begin, compose_job, job_overrides
from src.job.earlier import finished_earlier
from src.results.record import FILE, Result


class DryRun(Callback):
    """Ends the program with an estimate where `dry_run` is set, else does nothing."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        if config.dry_run:
            _end([begin(config, Path(config.hydra.run.dir))], sweep=False)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if config.dry_run:
            jobs = enumerate(job_overrides(config))
            _end((compose_job(config, *numbered) for numbered in jobs), sweep=True)


def _end(jobs: Iterable[DictConfig], sweep: bool) -> None:
    """Print the estimate; exit code 2 where the work would fail, and 0 otherwise."""
    try:
        with explaining():
            from src.job import estimate

            estimate.show(jobs, sweep)
    except Exception:  # Hydra would make a warning of it, and begin with the work.
        traceback.print_exc()
        raise SystemExit(1) from None
    raise SystemExit(0)


def is_finished(cfg: DictConfig) -> bool:
    """Say whether a sweep would skip this job, whose result lies in the sweep's folder."""
    if cfg.force:
        return False
    folder = Path(cfg.paths.output)
    with suppress(UserError):
        if Result.read(folder / FILE).config_hash != (own := config_hash(cfg)):
            Result.read(folder.with_name(f"{folder.name}-{own}") / FILE)
        return True
    return finished_earlier(cfg) is not None
