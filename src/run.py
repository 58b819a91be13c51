"""`python -m src.run`: one run, or a sweep with `-m`.

Torch is imported only once the configuration has been composed and checked.
"""

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.config import CONFIG_DIR, build, explain, run_command, validate

if TYPE_CHECKING:
    from lightning import Trainer

    from src.features.datamodule import FeatureDataModule
    from src.features.source import FeatureSource
    from src.methods.base import Method
    from src.results.record import Result

log = logging.getLogger(__name__)

failures: list[str] = []


@hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """Run one job; a user's mistake is told at once and leaves the sweep's other jobs alone."""
    try:
        return run(cfg)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            message = f"{HydraConfig.get().job.override_dirname}: {message}"
        failures.append(message)
        print(f"error: {message}", file=sys.stderr)
        return None


def run(cfg: DictConfig) -> float:
    """Build, fit, select, test, record; returns the accuracy (per cent)."""
    validate(cfg)
    clock = Clock()
    with clock("dataset"):
        dataset = build(cfg.dataset.reader)
    with clock("imports"):
        from src import assembly
        from src.methods import checkpoint
        from src.results.table import show
    _quiet()
    with clock("features"):
        source = assembly.make_source(cfg, dataset)
        support = assembly.make_support(cfg, source)
        head = assembly.make_head(cfg, source, support)
        method = assembly.make_method(cfg, head, len(source.class_names))
        data = assembly.make_data(cfg, source, method.inputs, support)
    training = cfg.method.training
    trainer = assembly.make_trainer(
        cfg,
        logger=assembly.make_loggers(cfg),
        max_epochs=1 if training is None else training.epochs,
    )
    figures: dict[str, Any] = {}
    if cfg.ckpt_path is not None:
        figures = checkpoint.restore(method, Path(cfg.ckpt_path), cfg.method.name)
    else:
        if data.train is not None:
            with clock("fit"):
                trainer.fit(method, datamodule=data)
        if data.validation is not None:
            with clock("selection"):
                for _ in range(max(1, len(method.searches))):
                    figures.update(*trainer.validate(method, datamodule=data, verbose=False))
    with clock("test"):
        figures.update(*trainer.test(method, datamodule=data, verbose=False))
    result = _record(cfg, source, method, data, figures, clock)
    _save(cfg, trainer, method, result)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        log.info("%s: accuracy %.2f %%, in %s", result.method, result.accuracy, cfg.paths.output)
    else:
        show([result], f"results in {cfg.paths.output}")
    return result.accuracy


@dataclass
class Clock:
    """Seconds by stage, and when the run began."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - began, 3)


def _quiet() -> None:
    """Keep Lightning's hints about devices, workers and its own products off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")


def _record(
    cfg: DictConfig,
    source: "FeatureSource",
    method: "Method",
    data: "FeatureDataModule",
    figures: Mapping[str, Any],
    clock: Clock,
) -> "Result":
    from src.assembly import selection_of
    from src.results import record
    from src.results.published import published

    selection = figures.get("selection", selection_of(cfg))
    settings = [name for name in cfg.method.head if name != "_target_"]
    if source.views is not None:
        settings.append("view_weights")
    few_shot = cfg.method.support is not None or selection == "val_few_shot"
    shots = cfg.shots if few_shot else 0
    weights = f"{cfg.backbone.architecture}/{cfg.backbone.pretrained}"
    return record.Result(
        dataset=cfg.dataset.name,
        backbone=getattr(source, "backbone", cfg.backbone.name),
        method=cfg.method.name,
        shots=shots,
        seed=cfg.seed,
        selection=selection,
        accuracy=figures["accuracy"],
        mean_class_accuracy=figures["mean_class_accuracy"],
        ece=figures["ece"],
        validation_accuracy=figures.get("validation_accuracy"),
        hyperparameters={name: method.setting(name) for name in settings},
        selected_on_test=selection == "test",
        n_test=len(data.test),
        n_classes=len(source.class_names),
        trainable_parameters=method.trainable_parameters(),
        epochs=0 if cfg.method.training is None else cfg.method.training.epochs,
        timings_s=clock.seconds,
        peak_rss_mb=round(record.peak_rss_mb(), 1),
        published=published(cfg.dataset.name, cfg.method.name, shots, cfg.backbone.name, weights),
        config_hash=record.config_hash(_plain(cfg)),
        versions=record.versions(),
        git_revision=record.git_revision(),
        started_at=clock.started_at.isoformat(timespec="seconds"),
    )


def _save(cfg: DictConfig, trainer: "Trainer", method: "Method", result: "Result") -> None:
    from lightning.pytorch.loggers import WandbLogger
    from safetensors.torch import save_file

    from src.files import replacing
    from src.methods import checkpoint

    output = Path(cfg.paths.output)
    if cfg.save_predictions:
        with replacing(output / "predictions.safetensors") as temporary:
            save_file(method.predictions, temporary)
    if cfg.method.training is not None and cfg.ckpt_path is None:
        checkpoint.save(trainer, method, output / checkpoint.FILE, asdict(result))
    result.write(output)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(asdict(result))
            logger.experiment.finish()


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return plain


if __name__ == "__main__":
    run_command(main)
    if failures:
        raise SystemExit(2)
