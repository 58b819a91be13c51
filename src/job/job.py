"""One job: build, fit, select, test, record."""

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config import build, run_group, run_name, validate
from src.job import attention_images, reuse, shift
from src.job.clock import Clock
from src.resolvers import settings_from
from src.results import loggers

if TYPE_CHECKING:
    from lightning import Trainer

    from src.features.datamodule import FeatureDataModule
    from src.methods.base import Method
    from src.methods.checkpoint import Saved

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> float:
    """Build, fit, select, test, record; returns the accuracy (per cent)."""
    validate(cfg)
    clock = Clock()
    with clock("dataset"):
        dataset = build(cfg.dataset.reader)
        others = shift.read_all(cfg, dataset)
        attention_images.check(cfg, dataset)
    with clock("imports"), _keeping_garbage():
        if wandb := cfg.logger.get("wandb"):
            loggers.check_wandb(wandb)
        from src.job import assembly, recording
        from src.job.trainer import check_trainer, make_callbacks, make_loggers, make_trainer
        from src.methods import checkpoint
        from src.results.table import show
    _quiet()
    cfg.group, cfg.name = run_group(cfg), run_name(cfg)
    check_trainer(cfg)
    assembly.check_method(cfg)
    _say_settings(cfg)
    saved = None if cfg.ckpt_path is None else checkpoint.read(Path(cfg.ckpt_path), cfg.method.name)
    if saved is not None:
        reuse.adopt(cfg, saved)
        assembly.check_method(cfg)
    with clock("features"):
        source = assembly.make_source(cfg, dataset)
        if saved is not None:
            reuse.check(saved, cfg.dataset.name, source.origin, source.class_names)
        head = assembly.make_head(cfg, source)
        method = assembly.make_method(cfg, head, len(source.class_names))
        support = assembly.make_support(cfg, source, head)
        train_on = support if saved is None else None
        data = assembly.make_data(cfg, source, method.inputs, train_on)
        # Anything wrong with further datasets shows before anything is trained.
        elsewhere = [shift.test_features(cfg, other, method.inputs) for other in others]
    training = cfg.method.training
    trainer = make_trainer(
        cfg,
        logger=make_loggers(cfg),
        callbacks=make_callbacks(cfg),
        max_epochs=1 if training is None else training.epochs,
        progress=not sweeping(),
    )
    adapted = _adapt(trainer, method, data, saved, clock)
    with clock("test"):
        (metrics,) = trainer.test(method, datamodule=data, verbose=False)
    answers = method.answers
    result = recording.make_result(cfg, dataset, source, data, method, metrics, adapted, clock)
    output = Path(cfg.paths.output)
    recording.save_adapted(output, cfg, source, trainer, method, result)
    evaluations = [
        shift.evaluate(cfg, other, features, method, result)
        for other, features in zip(others, elsewhere, strict=True)
    ]
    attention_images.draw(cfg, dataset, method, data)
    # The run's own result comes last: where it stands, the run is whole.
    recording.save(output, result, answers, source, method.surface)
    recording.log(trainer, result, evaluations)
    if not sweeping():
        show([result, *evaluations], f"results in {output}")
    return result.accuracy


def sweeping() -> bool:
    """Say whether this job is one of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _say_settings(cfg: DictConfig) -> None:
    if cfg.method.settings and not sweeping():
        log.info("settings of %s: %s", cfg.method.name, settings_from(cfg))


@contextmanager
def _keeping_garbage() -> Iterator[None]:
    """Put garbage collection off: what is imported stays, and searching it takes long."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _quiet() -> None:
    """Keep Lightning's hints about devices, workers and its own products off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message="Found .* module.s. in eval mode")  # CLIP's tower
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")


def _adapt(
    trainer: "Trainer",
    method: "Method",
    data: "FeatureDataModule",
    saved: "Saved | None",
    clock: Clock,
) -> dict[str, Any]:
    """Train and search, or take both from a checkpoint; return what the record says of it."""
    from src.methods import checkpoint

    if saved is not None:
        checkpoint.restore(method, saved)
        return {name: saved.result[name] for name in reuse.OF_THE_RUN if name in saved.result}
    found: dict[str, Any] = {}
    if data.train is not None:
        with clock("fit"):
            trainer.fit(method, datamodule=data)
        found["epochs"] = trainer.current_epoch
        epochs = data.train.crops if data.drawing == "pooled" else trainer.current_epoch
        found["distinct_crops"] = min(data.train.crops, epochs)
    if data.validation is not None:
        with clock("selection"):
            for _ in range(max(1, len(method.searches))):
                found.update(*trainer.validate(method, datamodule=data, verbose=False))
    return found
