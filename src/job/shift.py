"""Evaluation of what was adapted on further datasets: `eval_dataset=imagenet_v2,imagenet_a`.

Nothing is adapted to these datasets: support set and settings are those of `dataset`. So are
classes and prompts, except by `protocol=cross_dataset`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from src.config import build, compose
from src.data.images import ImageDataset
from src.data.point_clouds import PointClouds
from src.data.text_files import listing, readable
from src.errors import UserError
from src.job.clock import Clock

if TYPE_CHECKING:
    from src.features.datamodule import Features
    from src.features.source import FeatureSource
    from src.heads.support import Support
    from src.methods.base import Method
    from src.results.record import Result


@dataclass(frozen=True)
class EvalDataset:
    """A further dataset to evaluate on.

    Attributes:
        name: its name.
        images: what it holds.
        cfg: the configuration that it was read by.
        classes: `classes[k]` is the adapted label of its class k; None: it has its own classes and
            prompts, to which nothing was adapted.
    """

    name: str
    images: ImageDataset
    cfg: DictConfig
    classes: Sequence[int] | None


def read_all(cfg: DictConfig, adapted: Any) -> list[EvalDataset]:
    """Read the datasets that `cfg.eval_dataset` names; `adapted` is the one adapted on.

    Raises:
        UserError: a dataset is unusable, needs settings of its own, has a class that `adapted` does
            not have (but by `protocol=cross_dataset`), or holds point clouds where that holds
            images; or features were brought along, to which images cannot be compared.
    """
    own_classes = cfg.protocol.name == "cross_dataset"
    names = dict.fromkeys(cfg.eval_dataset)
    return [_read(name, cfg.paths, adapted, own_classes) for name in names]


def _read(name: str, paths: DictConfig, adapted: Any, own_classes: bool) -> EvalDataset:
    other = compose([f"dataset={name}"])
    other.paths.data, other.paths.features = paths.data, paths.features
    if isinstance(adapted, PointClouds) and "views" in other.dataset:
        other.dataset.views = adapted.views
    try:
        OmegaConf.to_container(other.dataset, resolve=True, throw_on_missing=True)
        images = build(other.dataset.reader)
    except MissingMandatoryValue:
        raise UserError(
            f"eval_dataset={name} needs settings of its own: write them into a YAML beside "
            f"conf/dataset/{name}.yaml, and give that one's name."
        ) from None
    except UserError as error:
        raise UserError(f"eval_dataset={name}: {error}") from None
    if not hasattr(adapted, "load"):
        raise UserError("eval_dataset needs images, and dataset=precomputed has features only.")
    if isinstance(images, PointClouds) != isinstance(adapted, PointClouds):
        raise UserError(
            f"eval_dataset={name}: what is adapted to images cannot be evaluated on point clouds, "
            "nor the other way round. Leave it out."
        )
    classes = None if own_classes else find_classes(images, adapted, name)
    return EvalDataset(name, images, other, classes)


def find_classes(evaluated: ImageDataset, adapted: ImageDataset, name: str) -> list[int]:
    """Find each class of `evaluated` among those of `adapted`, and return its label there.

    Classes are compared by their identifiers where both datasets have them (ImageNet's WordNet
    numbers: two of its classes may share a name), else by name, underscores read as spaces.

    Raises:
        UserError: `adapted` lacks a class of `evaluated`, the dataset called `name`, or has two of
            that name.
    """
    wanted, known = (list(getattr(one, "class_ids", None) or ()) for one in (evaluated, adapted))
    if not (wanted and known):
        wanted, known = (
            [readable(class_name) for class_name in one.class_names] for one in (evaluated, adapted)
        )
    if unknown := [one for one in wanted if known.count(one) != 1]:
        raise UserError(
            f"eval_dataset={name} has classes that the adapted dataset does not have just once: "
            f"{listing(unknown, known)}. Every class evaluated must have been adapted to; with "
            "protocol=cross_dataset none must."
        )
    labels = {one: label for label, one in enumerate(known)}
    return [labels[one] for one in wanted]


def test_features(
    cfg: DictConfig, other: EvalDataset, inputs: Sequence[str]
) -> "tuple[FeatureSource, Features]":
    """Take the test split of a further dataset from the store, or extract it."""
    from src.job import assembly

    prompts: list[list[str]] = []
    if other.classes is None:
        prompts = assembly.make_class_prompts(other.cfg, other.images.class_names)
    source = assembly.make_features(cfg, other.name, other.images, prompts)
    return source, source.split("test", inputs)


def evaluate(
    cfg: DictConfig,
    other: EvalDataset,
    features: "tuple[FeatureSource, Features]",
    method: "Method",
    support: "Support | None",
    adapted: "FeatureSource",
    result: "Result",
) -> "Result":
    """Test the adapted `method` on a further dataset, over its classes only, and record it.

    Classes of its own are answered for by the head's rule for those (`Head.for_classes`). So are
    some of the classes adapted to where images are looked at together: those of other classes must
    not draw any of them.

    The temperature and the threshold of sets are those of the dataset adapted on: there, the sets'
    coverage is promised for new images, and here it is not.

    Args:
        cfg: the run's configuration.
        other: the further dataset.
        features: what `test_features` gave for it.
        method: the very method of the run.
        support: what its head was shown.
        adapted: the dataset adapted on.
        result: the run's record. That of the evaluation differs from it only in what is found here.
    """
    from src.features.class_subset import ClassSubset
    from src.job import calibrating, protocols, recording, testing
    from src.job.trainer import make_trainer
    from src.results.scores import make_metrics

    source, test = features
    clock = Clock()
    among = source if other.classes is None else ClassSubset(adapted, other.classes)
    classes = other.classes
    if classes is None or (method.sees_test_images and method.head.carries_over):
        method = protocols.for_other_classes(cfg, method, support, among)
        classes = range(len(among.class_names))
    if other.classes is None:
        result = replace(result, conformal={})  # its sets are of other classes
    data = testing.make_test_data(cfg, method, test)
    with (
        clock("test"),
        method.restricted(classes, make_metrics(len(classes))),
        calibrating.keeping_logits(method, bool(result.conformal)),
    ):
        trainer = make_trainer(cfg, logger=False, progress=False)
        metrics = testing.test(trainer, method, data)
    answers = method.answers
    metrics = {**metrics, **calibrating.measure_sets(result.conformal, answers)}
    evaluation = replace(
        result,
        dataset=other.name,
        metrics=metrics,
        saw_test_images=method.sees_test_images,
        **recording.tested(method, data),
        **recording.beside(cfg, method, data, source, among.text),
        n_classes=len(classes),
        skipped_images=len(source.skipped_images),
        timings_s=clock.seconds,
        **recording.published_for(cfg, other.name, result.shots),
    )
    folder = Path(cfg.paths.output) / "eval" / other.name
    recording.save(folder, evaluation, calibrating.to_write(cfg, answers), source)
    return evaluation
