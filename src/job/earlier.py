"""Jobs that an earlier version of the code finished, in the folder of a sweep that is continued."""

import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.config import WITHOUT_EFFECT
from src.errors import UserError
from src.job.folder import CONFIGURATION
from src.results.record import FILE, VERSION, Result


def finished_earlier(cfg: DictConfig) -> Path | None:
    """Find the folder in which an earlier version of the code finished this job.

    Its name ends in another hash, because the configuration of a job differs between versions. But
    the user asked for the same, and the method had the same settings: that version, for example,
    gave settings that were published for RN50 to every backbone. What it trained is made again, for
    it repeated ten crops in all epochs, and so are point clouds, whose depth maps were half a pixel
    off.
    """
    if cfg.method.training is not None or "views" in cfg.dataset:
        return None
    hydra = HydraConfig.get()
    folder = _earlier_jobs(Path(hydra.sweep.dir)).get(_asked_for(hydra.overrides.task))
    config = None if folder is None else folder / CONFIGURATION / "config.yaml"
    if config is None or not config.is_file():
        return None
    earlier = OmegaConf.load(config).method
    parts = ("head", "search", "training")
    same = all(_agree(earlier.get(part), cfg.method.get(part)) for part in parts)
    return folder if same else None


def _agree(earlier: Any, now: Any) -> bool:
    """Say whether two configurations have equal values where they have the same keys."""
    if OmegaConf.is_dict(earlier) and OmegaConf.is_dict(now):
        shared = [
            key for key in earlier if key in now and not OmegaConf.is_interpolation(earlier, key)
        ]
        return all(_agree(earlier[key], now[key]) for key in shared)
    return bool(earlier == now)


@cache
def _earlier_jobs(sweep: Path) -> dict[frozenset[str], Path]:
    """List the jobs that earlier versions finished in a sweep's folder, by what was asked for."""
    jobs = {}
    for path in sorted(sweep.glob(f"*/{FILE}")):
        with suppress(UserError, OSError):  # without its overrides, a result is not known again
            if Result.read(path).version < VERSION:
                overrides = OmegaConf.load(path.parent / CONFIGURATION / "overrides.yaml")
                jobs[_asked_for(overrides)] = path.parent
    return jobs


def _asked_for(overrides: Any) -> frozenset[str]:
    """Keep the overrides that can change what a job finds; their order does not count."""
    given: Any = OmegaConf.to_container(overrides)  # iterating would resolve interpolations
    return frozenset(
        one for one in given if re.split(r"[.@=]", one.lstrip("+~"))[0] not in WITHOUT_EFFECT
    )
