"""What a run leaves: its record, the answers for each image, and its W&B run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from jaxtyping import Float
from lightning import Trainer
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from src.classifier import folder as classifier
from src.config import (
    FEW_SHOT_VALIDATION,
    config_hash,
    draws_passes,
    has_other_prompts,
    protocol_of,
    rerun_command,
    selection_of,
)
from src.data.point_clouds import PointClouds
from src.features.datamodule import FeatureDataModule, Features, in_memory
from src.features.passes import Passes
from src.features.source import FeatureSource
from src.files import replacing
from src.heads.base import answers_alone
from src.heads.multi_view import MultiView
from src.job import similarities, testing
from src.job.assembly import hyperparameters
from src.job.clock import Clock
from src.job.describing import describe, given_to
from src.methods import checkpoint
from src.methods.base import Answers, Method
from src.methods.search import Surface
from src.resolvers import settings_from
from src.results import record
from src.results.outcome import Outcome, wilson_interval
from src.results.published import published

ADAPTED_ON = ("dataset", "shots", "seed", "selection", "accuracy", "n_test", "started_at")
"""What a classifier tells of its run."""
NEW_CLASSES = "new_classes"
"""The folder, in that of a run, of the answers for classes that it was not adapted to."""
ROWS = 4096
"""How many test images are compared with the text at once."""


def make_result(
    cfg: DictConfig,
    dataset: Any,
    source: FeatureSource,
    data: FeatureDataModule,
    method: Method,
    metrics: Mapping[str, float],
    adapted: Mapping[str, Any],
    clock: Clock,
) -> record.Result:
    """Make the record of a run that has been tested.

    Args:
        cfg: the run's configuration.
        dataset: what it was built for.
        source: where its features came from.
        data: what it was tested on.
        method: as it was tested.
        metrics: what the test found.
        adapted: what training, validation and calibration found, and what a checkpoint says in
            place of the configuration, by the record's names.
        clock: the times of its stages.
    """
    selection = adapted.get("selection", selection_of(cfg))
    settings = hyperparameters(cfg, method.head)
    origin = similarities.settings_of(cfg, source, method.head, settings)
    if origin != settings_from(cfg):
        similarities.say(cfg, source, selection, settings, method.head.scaled)
    calibration = adapted.get("calibration", {})
    looked_at = {selection, calibration.get("selection")}
    few_shot = cfg.method.support is not None or not looked_at.isdisjoint(FEW_SHOT_VALIDATION)
    shots = cfg.shots if few_shot else 0
    return record.Result(
        dataset=cfg.dataset.name,
        adapted_on=cfg.dataset.name,
        **source.origin._asdict(),
        method=cfg.method.name,
        shots=shots,
        seed=cfg.seed,
        selection=selection,
        metrics=metrics,
        validation_accuracy=adapted.get("validation_accuracy"),
        hyperparameters=settings,
        settings_from=adapted.get("settings_from", origin),
        selected_on_test=selection == "test",
        saw_test_images=method.sees_test_images,
        **tested(method, data),
        skipped_images=len(source.skipped_images),
        n_classes=len(source.class_names),
        trainable_parameters=method.trainable_parameters(),
        epochs=adapted.get("epochs", 0),
        distinct_crops=adapted.get("distinct_crops", 0),
        timings_s=clock.seconds,
        threads=torch.get_num_threads(),
        points=dataset.points if isinstance(dataset, PointClouds) else None,
        dataset_notes=list(getattr(dataset, "notes", ())),
        peak_rss_mb=round(record.peak_rss_mb(), 1),
        passes=len(method.answers.accuracy) if draws_passes(cfg) else 0,
        **beside(cfg, method, data, source, source.text),
        **published_for(cfg, cfg.dataset.name, shots),
        protocol=protocol_of(cfg),
        calibration=calibration,
        conformal=adapted.get("conformal", {}),
        trained_with=similarities.trained_with(source),
        probabilities=similarities.SOFTMAX,
        config_hash=config_hash(cfg),
        versions=record.versions(),
        machine=record.machine(torch.cuda.get_device_name() if torch.cuda.is_available() else ""),
        git_revision=record.git_revision(),
        started_at=clock.started_at.isoformat(timespec="milliseconds"),
        command=rerun_command(HydraConfig.get()),
    )


def beside(
    cfg: DictConfig,
    method: Method,
    data: FeatureDataModule,
    source: FeatureSource,
    text: Float[Tensor, "c d"],
) -> dict[str, Any]:
    """Give what stands beside an accuracy that is hard to judge alone.

    Args:
        cfg: the run's configuration.
        method: as it was tested.
        data: what it was tested on.
        source: where the features of these images come from.
        text: of the classes among which it answered.
    """
    found: dict[str, Any] = {"zero_shot": None, "class_balance": {}}
    if method.sees_test_images or has_other_prompts(cfg):
        test = source.split("test", ["global"])
        found["zero_shot"] = zero_shot_accuracy(method, text, test, data.test_passes)
    if method.sees_test_images:
        label = in_memory(data.test, ["label"])["label"]
        found["class_balance"] = testing.balance(label, data.test_passes)
    return found


def zero_shot_accuracy(
    method: Method, text: Float[Tensor, "c d"], test: Features, passes: Passes | None
) -> float:
    """Compute zero-shot CLIP's accuracy (per cent); the mean over passes, where there are any.

    Depth maps of point clouds have the weights that they have in `method`.
    """
    text, right = normalize(text, dim=-1), []
    weights = method.head.weights.cpu() if isinstance(method.head, MultiView) else None
    for start in range(0, len(test), ROWS):
        rows = test.rows(start, min(start + ROWS, len(test)))
        features = rows["global"].float()
        if weights is not None:
            features = torch.einsum("nvd,v->nd", normalize(features, dim=-1), weights)
        right.append((features @ text.T).argmax(dim=1) == rows["label"])
    found = torch.cat(right).double()
    each = [found.mean()] if passes is None else [found[rows].mean() for rows in passes.rows]
    return 100.0 * float(torch.stack(each).mean())


def tested(method: Method, data: FeatureDataModule) -> dict[str, Any]:
    """Count the images that were tested, and say whether there are more of them."""
    shown = len(data.test) if data.test_passes is None else data.test_passes.images
    count = len(method.answers.outcome["label"])
    return {"n_test": count, "partial_test": method.answers.answered < shown}


def published_for(cfg: DictConfig, dataset: str, shots: int) -> dict[str, Any]:
    """Look up the published accuracies that a run on `dataset` corresponds to."""
    weights = f"{cfg.backbone.architecture}/{cfg.backbone.pretrained}"
    name, protocol = cfg.backbone.name, protocol_of(cfg)
    found = published(dataset, cfg.method.name, shots, name, weights, protocol=protocol)
    return {"published": next(iter(found.values()), None), "published_by_source": found}


def save(
    folder: Path,
    result: record.Result,
    answers: Answers,
    source: FeatureSource,
    surface: Surface | None = None,
) -> None:
    """Write what a test found into `folder`; the result comes last."""
    if answers.predictions:
        with replacing(folder / "predictions.safetensors") as temporary:
            save_file(answers.predictions, temporary)
    skipped = folder / "skipped_images.txt"
    if source.skipped_images:
        lines = [f"{path}\t{reason}\n" for path, reason in source.skipped_images.items()]
        with replacing(skipped) as temporary:
            temporary.write_text("".join(lines))
    else:
        skipped.unlink(missing_ok=True)  # left by an earlier run in this folder
    save_outcome(folder, answers, source, surface)
    result.write(folder)


def save_outcome(
    folder: Path, answers: Answers, source: FeatureSource, surface: Surface | None = None
) -> None:
    """Write the answer for each test image into `folder`, and what a search saw."""
    arrays: dict[str, Any] = {name: values.numpy() for name, values in answers.outcome.items()}
    if surface is not None:
        arrays |= {"search": surface.accuracy, "search_axes": surface.axes}
    Outcome(class_names=list(source.class_names), **arrays).write(folder)


def log(trainer: Trainer, result: record.Result, evaluations: Sequence[record.Result]) -> None:
    """Give W&B the whole record, and the accuracy on further datasets."""
    accuracies = {f"accuracy_{one.dataset}": one.accuracy for one in evaluations}
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(asdict(result) | dict(result.metrics) | accuracies)
            logger.experiment.finish()


def save_adapted(
    folder: Path,
    cfg: DictConfig,
    source: FeatureSource,
    trainer: Trainer,
    method: Method,
    result: record.Result,
) -> None:
    """Leave what was adapted: the checkpoint of a training, and a classifier that needs no data.

    There is no classifier of features that the user brought, which have no backbone here, nor of
    methods that answer for images together or need crops of them.
    """
    if cfg.method.training is not None and cfg.ckpt_path is None:
        path = folder / checkpoint.FILE
        checkpoint.save(trainer, method, path, asdict(result), source.class_names)
    if result.architecture is None or result.weights is None or not answers_alone(method.head):
        return
    adapted_on = {
        **{name: getattr(result, name) for name in ADAPTED_ON},
        "interval": wilson_interval(result.accuracy, result.n_test),
    }
    sets = dict(result.conformal) or None
    about = describe(cfg, source, method, adapted_on, points=result.points, conformal=sets)
    classifier.save(folder / classifier.FOLDER, about, method.head, given_to(method, source))
