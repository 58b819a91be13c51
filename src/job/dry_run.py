"""`dry_run=true`: what a run or a sweep would extract and how long that takes, before any of it.

Hydra's own order of events makes folders before the first job. So this is a callback of Hydra,
which comes before those, prints the estimate and ends the program. Imports no torch at first.
"""

import copy
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from src.command_line import explaining
from src.config import config_hash
from src.errors import UserError
from src.job.earlier import finished_earlier
from src.results.record import FILE, Result


class DryRun(Callback):
    """Ends the program with an estimate where `dry_run` is set, else does nothing."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        if config.dry_run:
            _end([_job(config, Path(config.hydra.run.dir))], sweep=False)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if config.dry_run:
            _end(_jobs(config), sweep=True)


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


def _jobs(config: DictConfig) -> Iterator[DictConfig]:
    """Compose the jobs of a sweep one by one, as Hydra's own sweeper and launcher do."""
    loader = GlobalHydra.instance().config_loader()
    hydra = config.hydra
    arguments = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(loader).parse_overrides([*arguments, *hydra.overrides.task])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    for number, own in enumerate(batch):
        job = loader.load_sweep_config(config, list(own))
        with open_dict(job):
            job.hydra.job.id = job.hydra.job.num = number
        HydraConfig.instance().set_config(job)  # the folder's name may say what the job is
        yield _job(job, Path(job.hydra.sweep.dir) / str(job.hydra.sweep.subdir))


def _job(config: DictConfig, folder: Path) -> DictConfig:
    """Make `config` Hydra's present one, and give what a job would be called with."""
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.absolute())
    HydraConfig.instance().set_config(config)
    job = copy.deepcopy(config)
    with read_write(job), open_dict(job):
        del job["hydra"]
    return job


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
