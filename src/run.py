"""`python -m src.run`: one run, or a sweep with `-m`.

Torch is imported only once the configuration has been composed and checked.
"""

import gc
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.command_line import explaining, run_command
from src.config import (
    CONFIG_DIR,
    as_lists,
    build,
    config_hash,
    rerun_command,
    validate,
)
from src.job import attention_images, shift, sweep

if TYPE_CHECKING:
    from lightning import Trainer

    from src.features.datamodule import FeatureDataModule, Features
    from src.features.source import FeatureSource
    from src.job.shift import EvalDataset
    from src.methods.base import Method
    from src.results.record import Result


@hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """Run one job, of a sweep or alone."""
    if _sweeping():
        return sweep.run_job(cfg, run)
    with explaining():  # before Hydra adds words of its own
        return run(cfg)


def run(cfg: DictConfig) -> float:
    """Build, fit, select, test, record; returns the accuracy (per cent)."""
    validate(cfg)
    clock = Clock()
    with clock("dataset"):
        dataset = build(cfg.dataset.reader)
        others = shift.read_all(cfg, dataset)
        attention_images.check(cfg, dataset)
    with clock("imports"), _keeping_garbage():
        if "wandb" in cfg.logger:
            # W&B's first run needs it, and its classes search all modules: torch has thousands.
            import wandb.sdk.launch  # noqa: F401
        from src.job import assembly
        from src.methods import checkpoint
        from src.results.table import show
    _quiet()
    with clock("features"):
        source = assembly.make_source(cfg, dataset)
        support = assembly.make_support(cfg, source)
        head = assembly.make_head(cfg, source, support)
        method = assembly.make_method(cfg, head, len(source.class_names))
        data = assembly.make_data(cfg, source, method.inputs, support)
        # What is wrong with them shows before anything is trained.
        elsewhere = [_test_features(cfg, other, method) for other in others]
    training = cfg.method.training
    trainer = assembly.make_trainer(
        cfg,
        logger=assembly.make_loggers(cfg),
        max_epochs=1 if training is None else training.epochs,
        progress=not _sweeping(),
    )
    figures = _adapt(cfg, trainer, method, data, clock)
    with clock("test"):
        figures.update(*trainer.test(method, datamodule=data, verbose=False))
    result = _record(cfg, source, method, data, figures, clock)
    output = Path(cfg.paths.output)
    if training is not None and cfg.ckpt_path is None:
        checkpoint.save(trainer, method, output / checkpoint.FILE, asdict(result))
    evaluations = [
        _evaluate(cfg, other, *features, method, result)
        for other, features in zip(others, elsewhere, strict=True)
    ]
    attention_images.draw(cfg, dataset, method, data)
    # The run's own result comes last: where it stands, the run is whole.
    _save(output, result, method, source)
    _log(trainer, result, evaluations)
    if not _sweeping():
        show([result, *evaluations], f"results in {output}")
    return result.accuracy


def _sweeping() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


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
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")


def _adapt(
    cfg: DictConfig, trainer: "Trainer", method: "Method", data: "FeatureDataModule", clock: Clock
) -> dict[str, Any]:
    """Train and search, or take both from a checkpoint; return what validation says."""
    from src.methods import checkpoint

    if cfg.ckpt_path is not None:
        return checkpoint.restore(method, Path(cfg.ckpt_path), cfg.method.name)
    figures: dict[str, Any] = {}
    if data.train is not None:
        with clock("fit"):
            trainer.fit(method, datamodule=data)
    if data.validation is not None:
        with clock("selection"):
            for _ in range(max(1, len(method.searches))):
                figures.update(*trainer.validate(method, datamodule=data, verbose=False))
    return figures


def _record(
    cfg: DictConfig,
    source: "FeatureSource",
    method: "Method",
    data: "FeatureDataModule",
    figures: Mapping[str, Any],
    clock: Clock,
) -> "Result":
    import torch

    from src.job.assembly import selection_of
    from src.results import record

    selection = figures.get("selection", selection_of(cfg))
    settings = [name for name in cfg.method.head if name != "_target_"]
    if source.views is not None:
        settings.append("view_weights")
    few_shot = cfg.method.support is not None or selection == "val_few_shot"
    shots = cfg.shots if few_shot else 0
    return record.Result(
        dataset=cfg.dataset.name,
        adapted_on=cfg.dataset.name,
        backbone=getattr(source, "backbone", cfg.backbone.name),
        precision=source.precision,
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
        skipped_images=len(source.skipped_images),
        n_classes=len(source.class_names),
        trainable_parameters=method.trainable_parameters(),
        epochs=0 if cfg.method.training is None else cfg.method.training.epochs,
        timings_s=clock.seconds,
        threads=torch.get_num_threads(),
        peak_rss_mb=round(record.peak_rss_mb(), 1),
        published=_published(cfg, cfg.dataset.name, shots),
        config_hash=config_hash(cfg),
        versions=record.versions(),
        git_revision=record.git_revision(),
        started_at=clock.started_at.isoformat(timespec="milliseconds"),
        command=rerun_command(HydraConfig.get()),
    )


def _test_features(
    cfg: DictConfig, other: "EvalDataset", method: "Method"
) -> tuple["FeatureSource", "Features"]:
    """Take the test split of a further dataset from the store, or extract it."""
    from src.job import assembly

    source = assembly.make_features(cfg, other.name, other.images)
    return source, source.split("test", "spatial" in method.inputs)


def _evaluate(
    cfg: DictConfig,
    other: "EvalDataset",
    source: "FeatureSource",
    test: "Features",
    method: "Method",
    result: "Result",
) -> "Result":
    """Evaluate on a further dataset; its record is that of the run but for what is found there."""
    from src.job import assembly

    clock = Clock()
    with clock("test"):
        trainer = assembly.make_trainer(cfg, logger=False, progress=False)
        figures, restricted = shift.evaluate(test, other.classes, method, cfg.batch_size, trainer)
    evaluation = replace(
        result,
        dataset=other.name,
        **figures,
        n_classes=len(other.classes),
        skipped_images=len(source.skipped_images),
        timings_s=clock.seconds,
        published=_published(cfg, other.name, result.shots),
    )
    _save(Path(cfg.paths.output) / "eval" / other.name, evaluation, restricted, source)
    return evaluation


def _published(cfg: DictConfig, dataset: str, shots: int) -> float | None:
    from src.results.published import published

    weights = f"{cfg.backbone.architecture}/{cfg.backbone.pretrained}"
    return published(dataset, cfg.method.name, shots, cfg.backbone.name, weights)


def _save(folder: Path, result: "Result", method: "Method", source: "FeatureSource") -> None:
    """Write what `method` found on `source`; the result last."""
    from safetensors.torch import save_file

    from src.files import replacing
    from src.results.outcome import Outcome

    if method.predictions:
        with replacing(folder / "predictions.safetensors") as temporary:
            save_file(method.predictions, temporary)
    skipped = folder / "skipped_images.txt"
    if source.skipped_images:
        lines = [f"{path}\t{reason}\n" for path, reason in source.skipped_images.items()]
        with replacing(skipped) as temporary:
            temporary.write_text("".join(lines))
    else:
        skipped.unlink(missing_ok=True)  # of an earlier run in this folder
    answers: dict[str, Any] = {name: values.numpy() for name, values in method.outcome.items()}
    if method.surface is not None:
        answers |= {"search": method.surface.accuracy, "search_axes": method.surface.axes}
    Outcome(class_names=list(source.class_names), **answers).write(folder)
    result.write(folder)


def _log(trainer: "Trainer", result: "Result", evaluations: Sequence["Result"]) -> None:
    """Give W&B the whole record, and the accuracy on further datasets."""
    from lightning.pytorch.loggers import WandbLogger

    accuracies = {f"accuracy_{one.dataset}": one.accuracy for one in evaluations}
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(asdict(result) | accuracies)
            logger.experiment.finish()


if __name__ == "__main__":
    sys.argv = as_lists(sys.argv, "eval_dataset")
    with sweep.ending():
        run_command(main)
