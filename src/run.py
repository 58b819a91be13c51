"""`python -m src.run`: one run, or a sweep with `-m`. Reads the configuration; nothing else does.

Torch is imported only once the configuration has been composed and checked.
"""

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.config import CONFIG_DIR, build, explain, run_command, validate

if TYPE_CHECKING:
    from lightning import Callback, Trainer

    from src.features.datamodule import FeatureDataModule
    from src.features.source import FeatureSource
    from src.methods.training_free import TrainingFree
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
        failures.append(message)
        print(f"error: {message}", file=sys.stderr)
        return None


def run(cfg: DictConfig) -> float:
    """Seed, build, select, test, record; returns the accuracy (per cent)."""
    validate(cfg)
    clock = Clock()
    with clock("dataset"):
        dataset = build(cfg.dataset.reader)
    with clock("imports"):
        from lightning import seed_everything

        from src.results.table import show
    _quiet()
    seed_everything(cfg.seed, verbose=False)
    with clock("features"):
        source = _source(cfg, dataset)
        method = _method(cfg, source)
        data = _data(cfg, source, method.inputs)
    trainer = _trainer(cfg, logger=_loggers(cfg))
    figures: dict[str, float] = {}
    if data.validation is not None:
        with clock("selection"):
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
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")


def _source(cfg: DictConfig, dataset: Any) -> "FeatureSource":
    from src.features.precomputed import PrecomputedFeatures
    from src.features.source import ImageFeatures
    from src.features.store import FeatureStore

    if isinstance(dataset, PrecomputedFeatures):
        return dataset
    return ImageFeatures(
        name=cfg.dataset.name,
        dataset=dataset,
        templates=list(cfg.dataset.templates),
        backbone=cfg.backbone.name,
        architecture=cfg.backbone.architecture,
        pretrained=cfg.backbone.pretrained,
        precision=cfg.backbone.precision,
        batch_size=cfg.backbone.batch_size,
        store=FeatureStore(Path(cfg.paths.features)),
        trainer=partial(_trainer, cfg, logger=False),
    )


def _selection(cfg: DictConfig) -> str:
    return str(cfg.selection.name) if cfg.method.search is not None else "fixed"


def _method(cfg: DictConfig, source: "FeatureSource") -> "TrainingFree":
    from src.methods.training_free import TrainingFree
    from src.selection import search_from

    text, logit_scale = source.text()
    head = build(cfg.method.head, text=text, logit_scale=logit_scale)
    search = None
    if _selection(cfg) != "fixed":
        search = search_from(cfg.selection.search, cfg.method.search, cfg.method.head)
    return TrainingFree(head, len(source.class_names), cfg.save_predictions, search)


def _data(cfg: DictConfig, source: "FeatureSource", inputs: list[str]) -> "FeatureDataModule":
    from src.features.datamodule import FeatureDataModule

    spatial = "spatial" in inputs
    match _selection(cfg):
        case "fixed":
            validation = None
        case "val_few_shot":
            validation = source.few_shot_validation(cfg.shots, cfg.seed, spatial)
        case split:
            validation = source.split(split, spatial)
    test = source.split("test", spatial)
    return FeatureDataModule(inputs, cfg.batch_size, test, validation)


def _loggers(cfg: DictConfig) -> list[Any]:
    loggers = [build(node) for node in cfg.logger.values()]
    for logger in loggers:
        logger.log_hyperparams(_plain(cfg))
    return loggers


def _trainer(cfg: DictConfig, callbacks: Sequence["Callback"] = (), **settings: Any) -> "Trainer":
    from lightning import Trainer
    from lightning.pytorch.callbacks import RichProgressBar

    return Trainer(
        **cfg.trainer,
        **settings,
        callbacks=[RichProgressBar(), *callbacks],
        default_root_dir=cfg.paths.output,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _record(
    cfg: DictConfig,
    source: "FeatureSource",
    method: "TrainingFree",
    data: "FeatureDataModule",
    figures: Mapping[str, float],
    clock: Clock,
) -> "Result":
    from src.results import record
    from src.results.published import published

    selection = _selection(cfg)
    settings = [name for name in cfg.method.head if name != "_target_"]
    shots = cfg.shots if selection == "val_few_shot" else 0
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
        hyperparameters={name: getattr(method.head, name) for name in settings},
        selected_on_test=selection == "test",
        n_test=len(data.test),
        n_classes=len(source.class_names),
        trainable_parameters=0,
        epochs=0,
        timings_s=clock.seconds,
        peak_rss_mb=round(record.peak_rss_mb(), 1),
        published=published(cfg.dataset.name, cfg.method.name, shots, cfg.backbone.name, weights),
        config_hash=record.config_hash(_plain(cfg)),
        versions=record.versions(),
        git_revision=record.git_revision(),
        started_at=clock.started_at.isoformat(timespec="seconds"),
    )


def _save(cfg: DictConfig, trainer: "Trainer", method: "TrainingFree", result: "Result") -> None:
    from lightning.pytorch.loggers import WandbLogger
    from safetensors.torch import save_file

    from src.files import replacing

    output = Path(cfg.paths.output)
    if cfg.save_predictions:
        with replacing(output / "predictions.safetensors") as temporary:
            save_file(method.predictions, temporary)
    result.write(output)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(vars(result))
            logger.experiment.finish()


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return plain


if __name__ == "__main__":
    run_command(main)
    if failures:
        raise SystemExit(2)
