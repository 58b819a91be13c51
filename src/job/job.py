"""One job: what can be checked without torch, and then its stages."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config import build
from src.errors import UserError
from src.hints import without_hints
from src.job import attention_images, shift
from src.job.clock import Clock
from src.results import loggers
from src.validation import validate


def run(cfg: DictConfig) -> float:
    """Build, fit, select, test, record; returns the accuracy (per cent)."""
    validate(cfg)
    if cfg.dry_run:  # `src.job.dry_run` has seen no such thing
        raise UserError("dry_run=true is of a whole run or sweep: give it once, on its own.")
    clock = Clock()
    with clock("dataset"):
        dataset = build(cfg.dataset.reader)
        others = shift.read_all(cfg, dataset)
        attention_images.check(cfg, dataset)
    with clock("imports"), _keeping_garbage():
        if wandb := cfg.logger.get("wandb"):
            loggers.check_wandb(wandb)
        from src.job import stages
    with without_hints():  # after the imports: Lightning's own makes it tell them
        return stages.run(cfg, dataset, others, clock)


def sweeping() -> bool:
    """Say whether this job is one of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


@contextmanager
def _keeping_garbage() -> Iterator[None]:
    """Put garbage collection off: what is imported stays, and searching it takes long."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
