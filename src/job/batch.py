"""The jobs of a sweep, before a launcher starts them."""

import copy
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict, read_write


def given(config: DictConfig) -> list[Override]:
    """Read what a sweep was given, by its recipe and then on the command line."""
    hydra = config.hydra
    arguments = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    return parser.parse_overrides([*arguments, *hydra.overrides.task])


def job_overrides(config: DictConfig) -> list[list[str]]:
    """List the overrides of each job, in the order of their numbers, as Hydra's sweeper does."""
    (batch,) = BasicSweeper.split_arguments(given(config), None)
    return [list(overrides) for overrides in batch]


def compose_job(config: DictConfig, number: int, overrides: Sequence[str]) -> DictConfig:
    """Compose a job, make it Hydra's present one, and give what it would be called with.

    Args:
        config: of the sweep, as Hydra gives it to callbacks.
        number: of the job.
        overrides: of the job.
    """
    job = GlobalHydra.instance().config_loader().load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    HydraConfig.instance().set_config(job)  # the folder's name may say what the job is
    return begin(job, Path(job.hydra.sweep.dir) / str(job.hydra.sweep.subdir))


def begin(config: DictConfig, folder: Path) -> DictConfig:
    """Make `config` Hydra's present one, and give what a job in `folder` would be called with."""
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.absolute())
    HydraConfig.instance().set_config(config)
    job = copy.deepcopy(config)
    with read_write(job), open_dict(job):
        del job["hydra"]
    return job
