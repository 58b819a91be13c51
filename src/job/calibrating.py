"""Calibrating what was adapted: the temperature of its probabilities, and its sets of classes."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from src.errors import UserError
from src.features.datamodule import FeatureDataModule, Features
from src.features.source import FeatureSource
from src.job.assembly import make_validation
from src.job.trainer import make_trainer
from src.methods.base import Answers, Method
from src.methods.calibration import fit_temperature
from src.methods.checkpoint import Saved
from src.results import conformal

log = logging.getLogger(__name__)


def images_for(cfg: DictConfig, source: FeatureSource, inputs: Sequence[str]) -> Features | None:
    """Take the validation images that the temperature is fitted on; None where it is not."""
    if cfg.calibrate is None:
        return None
    return make_validation(cfg, source, inputs, cfg.selection.name)


def fit(cfg: DictConfig, method: Method, images: Features) -> dict[str, Any]:
    """Fit the temperature of an adapted method, and give it that; return the record's field."""
    data = FeatureDataModule(method.inputs, cfg.batch_size, test=images)
    method.temperature = 1.0
    with keeping_logits(method, True):
        make_trainer(cfg, logger=False, progress=False).test(method, datamodule=data, verbose=False)
    found = method.answers.predictions
    method.temperature = fit_temperature(found["logits"], found["label"])
    return {
        "temperature": method.temperature,
        "selection": cfg.selection.name,
        "images": len(found["label"]),
    }


def restore(method: Method, saved: Saved) -> dict[str, Any]:
    """Give a method the temperature of a checkpoint; return the record's field, or an empty one.

    Raises:
        UserError: the temperature is no positive number.
    """
    calibration = saved.result.get("calibration") or {}
    try:
        method.temperature = float(calibration["temperature"]) if calibration else 1.0
        if not 0 < method.temperature < math.inf:
            raise ValueError
        return dict(calibration)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"ckpt_path={saved.path}: its temperature is no positive number. Train it again."
        ) from None


@contextmanager
def keeping_logits(method: Method, wanted: bool) -> Iterator[None]:
    """Have tests keep the logits, if they are wanted, even where the run does not write them."""
    before = method.keep_predictions
    method.keep_predictions = before or wanted
    try:
        yield
    finally:
        method.keep_predictions = before


def make_sets(cfg: DictConfig, answers: Answers) -> tuple[dict[str, Any], dict[str, float]]:
    """Calibrate sets on half of the tested images, by class, and measure them on the others.

    Returns:
        The record's field, and the metrics `src.results.metrics.OF_SETS`; both empty where no sets
        are wanted, and the metrics where no class has a second image.
    """
    if cfg.conformal is None:
        return {}, {}
    probabilities, label = _probabilities(answers)
    apart = conformal.kept_apart(label, cfg.seed)
    made = conformal.calibrate(probabilities[apart], label[apart], cfg.conformal, cfg.coverage)
    if made["threshold"] is None:
        log.warning(
            "conformal=%s: %d images are too few for coverage=%s, so each set holds all classes",
            cfg.conformal, made["images"], cfg.coverage,
        )  # fmt: skip
    if apart.all():
        log.warning("conformal=%s: no image is left to measure the sets on", cfg.conformal)
        return made, {}
    return made, _measure(made, probabilities[~apart], label[~apart])


def measure_sets(made: Mapping[str, Any], answers: Answers) -> dict[str, float]:
    """Measure sets that were calibrated on other images; `made` is the record's field."""
    return _measure(made, *_probabilities(answers)) if made else {}


def to_write(cfg: DictConfig, answers: Answers) -> Answers:
    """Leave the logits out, unless the run writes them."""
    return answers if cfg.save_predictions else answers._replace(predictions={})


def _measure(
    made: Mapping[str, Any], probabilities: NDArray[np.float32], label: NDArray[np.int64]
) -> dict[str, float]:
    sets = conformal.prediction_sets(probabilities, made)
    return conformal.figures(sets, label, made["coverage"])


def _probabilities(answers: Answers) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    logits, label = answers.predictions["logits"], answers.predictions["label"]
    return logits.softmax(dim=-1).numpy(), label.numpy()
