"""The stages of a job: features, fit, selection, test, record."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer
from omegaconf import DictConfig

from src.config import run_group, run_name
from src.features.datamodule import FeatureDataModule, in_memory
from src.heads.base import ChoosesWhileAnswering
from src.job import (
    assembly,
    attention_images,
    calibrating,
    protocols,
    recording,
    reuse,
    shift,
    testing,
)
from src.job.clock import Clock
from src.job.job import sweeping
from src.job.trainer import check_trainer, make_callbacks, make_loggers, make_trainer
from src.methods import checkpoint
from src.methods.base import Method
from src.resolvers import settings_from
from src.results.table import show

log = logging.getLogger(__name__)


def run(cfg: DictConfig, dataset: Any, others: Sequence[shift.EvalDataset], clock: Clock) -> float:
    """Adapt to `dataset`, test there and on `others`; returns the accuracy (per cent)."""
    cfg.group, cfg.name = run_group(cfg), run_name(cfg)
    check_trainer(cfg)
    assembly.check_method(cfg)
    _say_settings(cfg)
    saved = None if cfg.ckpt_path is None else checkpoint.read(Path(cfg.ckpt_path), cfg.method.name)
    if saved is not None:
        reuse.adopt(cfg, saved)
        assembly.check_method(cfg)
    with clock("features"):
        source, unseen = protocols.divide(cfg, assembly.make_source(cfg, dataset))
        if saved is not None:
            reuse.check(saved, cfg.dataset.name, source.origin, source.class_names)
        head = assembly.make_head(cfg, source)
        assembly.make_method(cfg, head, len(source.class_names))  # its mistakes show at once
        support = assembly.make_support(cfg, source, head)
        method = assembly.make_method(cfg, head, len(source.class_names))
        train_on = support if saved is None else None
        data = assembly.make_data(cfg, source, method.inputs, train_on)
        data.test_passes = testing.passes_over(cfg, head, data.test)
        calibrated_on = calibrating.images_for(cfg, source, method.inputs)
        beside = None if unseen is None else unseen.split("test", method.inputs)
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
    adapted = adapt(trainer, method, data, saved, clock)
    if saved is not None:
        adapted["calibration"] = calibrating.restore(method, saved)
    if calibrated_on is not None:
        with clock("calibration"):
            adapted["calibration"] = calibrating.fit(cfg, method, calibrated_on)
    with clock("test"), calibrating.keeping_logits(method, cfg.conformal is not None):
        metrics = testing.test(trainer, method, data)
    answers = method.answers
    adapted["conformal"], of_sets = calibrating.make_sets(cfg, answers)
    metrics = {**metrics, **of_sets}
    output = Path(cfg.paths.output)
    if unseen is not None and beside is not None:
        with clock("test_new"):
            other = protocols.for_other_classes(cfg, method, support, unseen)
            metrics |= protocols.test_new_classes(cfg, other, beside, metrics["accuracy"])
        recording.save_outcome(output / recording.NEW_CLASSES, other.answers, unseen)
    result = recording.make_result(cfg, dataset, source, data, method, metrics, adapted, clock)
    recording.save_adapted(output, cfg, source, trainer, method, result)
    evaluations = [
        shift.evaluate(cfg, other, features, method, support, source, result)
        for other, features in zip(others, elsewhere, strict=True)
    ]
    attention_images.draw(cfg, dataset, method, data)
    # The run's own result comes last: where it stands, the run is whole.
    recording.save(output, result, calibrating.to_write(cfg, answers), source, method.surface)
    recording.log(trainer, result, evaluations)
    if not sweeping():
        show([result, *evaluations], f"results in {output}")
    return result.accuracy


def _say_settings(cfg: DictConfig) -> None:
    if cfg.method.settings and not sweeping():
        log.info("settings of %s: %s", cfg.method.name, settings_from(cfg))


def adapt(
    trainer: Trainer,
    method: Method,
    data: FeatureDataModule,
    saved: checkpoint.Saved | None,
    clock: Clock,
) -> dict[str, Any]:
    """Train and search, or take both from a checkpoint; return what the record says of it."""
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
            if isinstance(method.head, ChoosesWhileAnswering):
                features = in_memory(data.validation, [*method.inputs, "label"])
                method.head.validate_on(features, features.pop("label"))
                return found
            for _ in range(max(1, len(method.searches))):
                found.update(*trainer.validate(method, datamodule=data, verbose=False))
    return found
