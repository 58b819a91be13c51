"""From a composed configuration to the objects of a run."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from lightning import seed_everything
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from src.clip.crops import AnyAugmentation, Augmentation, CloudAugmentation
from src.config import (
    FEW_SHOT_VALIDATION,
    PARTS,
    PROMPTS,
    WITHOUT_VALIDATION,
    build,
    foreign_parts,
    searches_views,
    selection_of,
)
from src.data.point_clouds import PointClouds
from src.data.prompts import make_prompts, read_descriptors, read_prompts
from src.data.text_files import listing
from src.data.waffle import waffle_prompts
from src.errors import UserError, require_integer
from src.features import image_crops
from src.features.datamodule import DRAWINGS, FeatureDataModule, Features, SupportBatches
from src.features.image_features import ImageFeatures
from src.features.point_clouds import PointCloudFeatures
from src.features.precomputed import PrecomputedFeatures
from src.features.source import FeatureSource
from src.heads.base import Head, check, check_built
from src.heads.multi_view import MultiView
from src.heads.support import Support
from src.job import similarities, testing
from src.job.trainer import devices_of, for_trainer, make_trainer
from src.methods.base import Method
from src.methods.search import Search, search_from
from src.methods.view_search import ViewSearch
from src.results.scores import make_metrics
from src.store.store import FeatureStore

log = logging.getLogger(__name__)

SUPPORT = ("crops", "min_scale", "horizontal_flip", "copies")
"""The settings of a support set. `crops` of images and `copies` of point clouds are null, or
missing, where those are used as they are."""


def check_method(cfg: DictConfig) -> None:
    """Check that the method's head keeps its contract and has the settings that it is given.

    A sweep may give settings of the support set, of the training or of crops to methods that have
    none: there they are dropped.

    Raises:
        UserError: a setting of the head or of the support set is unknown, or one of the head is
            missing or of the wrong type; or the training cannot be built.
    """
    try:
        head_class: Any = get_class(cfg.method.head._target_)
    except (ImportError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise UserError(f"method.head: {reason}. Correct its _target_.") from None
    check(head_class, _settings(cfg))
    testing.check(cfg, head_class)
    if cfg.protocol.imbalance == "realistic" and head_class.needs_every_class:
        raise UserError(
            f"method={cfg.method.name} needs an image of every class, and protocol.imbalance="
            "realistic gives some none: choose relaxed, or another method."
        )
    _check_training(cfg)
    support = cfg.method.support or {}
    for name in ("crops", "copies"):
        if support.get(name) is not None:
            require_integer(f"method.support.{name}", support[name], least=1)
    if unknown := [name for name in support if name not in SUPPORT]:
        raise UserError(
            f"method.support.{unknown[0]}={support[unknown[0]]}: there is no such setting. There "
            f"are {', '.join(SUPPORT)}."
        )
    for part in foreign_parts(cfg):
        given = ", ".join(f"method.{part}.{name}" for name in cfg.method[part])
        log.warning("method=%s %s: %s has no effect", cfg.method.name, PARTS[part], given)
        cfg.method[part] = None
    if cfg.method.support is not None and (crops := cfg.method.support.get("crops")) is not None:
        for name in ("min_scale", "horizontal_flip"):
            if name not in cfg.method.support:
                raise UserError(
                    f"method.support.crops={crops} needs method.support.{name} too: give "
                    f"+method.support.{name}=..."
                )


def _check_training(cfg: DictConfig) -> None:
    module = cfg.method.module
    if "schedule" in module:
        build(module.schedule)
    if "optimizer" in module:
        try:
            build(module.optimizer, params=[nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise UserError(f"method.module.optimizer: {error}. Correct its settings.") from None


def make_source(cfg: DictConfig, dataset: Any) -> FeatureSource:
    """Give the dataset's features: the user's own, or those of a store with CLIP behind it."""
    if isinstance(dataset, PrecomputedFeatures):
        for name in PROMPTS:
            if cfg.dataset[name] is not None:
                raise UserError(
                    f"dataset.{name} changes nothing on features that exist: leave it out."
                )
        return dataset
    return make_features(
        cfg, cfg.dataset.name, dataset, make_class_prompts(cfg, dataset.class_names)
    )


def make_features(
    cfg: DictConfig, name: str, dataset: Any, prompts: Sequence[Sequence[str]] = ()
) -> FeatureSource:
    """Take a dataset's features from the store, with the backbone behind it."""
    make: Any = PointCloudFeatures if isinstance(dataset, PointClouds) else ImageFeatures
    source: FeatureSource = make(
        name=name,
        dataset=dataset,
        prompts=prompts,
        backbone=cfg.backbone.name,
        architecture=cfg.backbone.architecture,
        pretrained=cfg.backbone.pretrained,
        preprocessing=preprocessing_of(cfg),
        precision=cfg.backbone.precision,
        batch_size=cfg.backbone.batch_size,
        store=FeatureStore(Path(cfg.paths.features)),
        trainer=partial(make_trainer, for_trainer(cfg), logger=False),
        devices=devices_of(cfg),
        skip_damaged=cfg.on_bad_image == "skip",
        test_crops=image_crops.read(cfg.method.get("test_crops")),
    )
    return source


def preprocessing_of(cfg: DictConfig) -> str | dict[str, Any] | None:
    """Read `backbone.preprocessing` as plain text or a plain mapping."""
    given = cfg.backbone.get("preprocessing")
    plain: Any = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    return plain if plain is None or isinstance(plain, dict) else str(plain)


def make_class_prompts(cfg: DictConfig, class_names: Sequence[str]) -> list[list[str]]:
    """Take what is given for each class in place of templates, or put its name into those."""
    if cfg.dataset.prompts is not None:
        return read_prompts(str(cfg.dataset.prompts), class_names)
    if cfg.dataset.descriptors is not None:
        return read_descriptors(str(cfg.dataset.descriptors), class_names)
    if cfg.dataset.waffle is not None:
        return waffle_prompts(class_names, cfg.dataset.waffle)
    if not isinstance(cfg.dataset.templates, ListConfig):
        raise UserError(
            f"dataset.templates={cfg.dataset.templates} is not a list: write "
            "'dataset.templates=[\"a photo of a {}.\"]'."
        )
    return make_prompts(class_names, list(cfg.dataset.templates))


def make_head(cfg: DictConfig, source: FeatureSource) -> Head:
    """Build the method's head; it has not seen the support set yet.

    Raises:
        UserError: the method is not made for what the dataset holds, or a setting is out of range.
    """
    head_class: Any = get_class(cfg.method.head._target_)
    weights = check_views(cfg, head_class, source.n_views)
    given = {name: getattr(source, name) for name in head_class.given}
    # The seed is set here because what was loaded before may have used random numbers.
    seed_everything(cfg.seed, verbose=False)
    head: Head = head_class(**given, **_settings(cfg))
    check_built(head)
    if weights is not None:
        return MultiView(head, weights)
    return head


def make_support(cfg: DictConfig, source: FeatureSource, head: Head) -> Support | None:
    """Draw the support set, for methods that need one, and show it to the head.

    Before, the head's settings are scaled where the backbone's similarities are not CLIP's.

    Raises:
        UserError: the dataset lacks images, or images of a class that the head needs.
    """
    if cfg.method.support is None:
        similarities.scale(cfg, source, head, None)
        return None
    support = _draw(cfg, source, head.inputs, cfg.method.support.crops)
    missing = support.missing(source.class_names)
    if head.needs_every_class and missing:
        why = f" ({len(source.skipped_images)} are skipped)" if source.skipped_images else ""
        raise UserError(
            f"the support set has no image of {listing(missing)}: add training images that can be "
            f"decoded{why}, or remove the class."
        )
    similarities.scale(cfg, source, head, support)
    head.prepare(support)
    return support


def _draw(
    cfg: DictConfig, source: FeatureSource, inputs: Sequence[str], crops: int | None, first: int = 0
) -> Support:
    settings = cfg.method.support
    augmentation: AnyAugmentation | None = None
    if source.n_views is not None:
        if settings.get("copies") is not None:
            augmentation = CloudAugmentation(settings.copies)
    elif crops is not None:
        augmentation = Augmentation(crops, settings.min_scale, settings.horizontal_flip, first)
    imbalance = cfg.protocol.imbalance
    return Support(*source.support(cfg.shots, cfg.seed, inputs, augmentation, imbalance))


def make_data(
    cfg: DictConfig,
    source: FeatureSource,
    inputs: Sequence[str],
    support: Support | None,
    test: Features | None = None,
) -> FeatureDataModule:
    """Gather what is tested, selected and trained on.

    Args:
        cfg: the configuration.
        source: where the features come from.
        inputs: those that the head takes.
        support: what the head was shown; None if there is nothing to train on. The training sees
            the very same crops, or `method.training.crops` others, in batches that are drawn as
            `method.training.drawing` says.
        test: what is tested on; None: the test split.

    Raises:
        UserError: `method.training.drawing` is unknown, or needs a batch size that is missing.
    """
    training: Any = cfg.method.training or {}
    drawing, rows_per_step = training.get("drawing", "images"), training.get("batch_size")
    if drawing not in DRAWINGS:
        raise UserError(
            f"method.training.drawing={drawing} is unknown: give {', '.join(DRAWINGS)}."
        )
    if training and rows_per_step is None and drawing != "whole":
        raise UserError(
            f"method.training.drawing={drawing} needs a batch size: give "
            "+method.training.batch_size=..., or drawing=whole."
        )
    # Methods that train watch their validation accuracy even where they choose nothing by it.
    selection = cfg.selection.name if training else selection_of(cfg)
    validation = train = None
    if selection not in WITHOUT_VALIDATION:
        validation = make_validation(cfg, source, inputs, selection)
    if training and support is not None:
        if training.get("crops") is not None:
            first = cfg.method.support.crops or 0
            support = _draw(cfg, source, inputs, training.crops, first)
        train = SupportBatches(support.features, support.label, inputs)
    return FeatureDataModule(
        inputs,
        cfg.batch_size,
        test=source.split("test", inputs) if test is None else test,
        validation=validation,
        train=train,
        train_batch_size=rows_per_step or 1,
        drop_last=training.get("drop_last", False),
        seed=cfg.seed,
        drawing=drawing,
    )


def make_validation(
    cfg: DictConfig, source: FeatureSource, inputs: Sequence[str], selection: str
) -> Features:
    """Take the labelled images that `selection` names, a split or few validation images."""
    if selection not in FEW_SHOT_VALIDATION:
        return source.split(selection, inputs)
    most = FEW_SHOT_VALIDATION[selection]
    return source.few_shot_validation(cfg.shots, cfg.seed, inputs, most or cfg.shots)


def make_method(cfg: DictConfig, head: Head, n_classes: int, searching: bool = True) -> Method:
    """Wrap the head into the method's LightningModule, with its searches if they are to come."""
    searches: list[Search | ViewSearch] = []
    selects = searching and selection_of(cfg) not in WITHOUT_VALIDATION
    if selects and "inner" in (cfg.method.search or {}):
        ranges = similarities.scaled_search(cfg.method.search, head.scaled)
        searches.append(search_from(cfg.selection.search, ranges, head.chosen()))
    if searching and searches_views(cfg):
        searches.append(ViewSearch(cfg.selection.search))
    method: Method = build(
        cfg.method.module,
        head=head,
        metrics=make_metrics(n_classes),
        keep_predictions=cfg.save_predictions,
        searches=searches,
    )
    return method


def hyperparameters(cfg: DictConfig, head: Head) -> dict[str, Any]:
    """Return the head's settings, with those that were changed in place of those it began with."""
    own = head.head if isinstance(head, MultiView) else head
    return _settings(cfg) | {name: getattr(own, name) for name in own.scaled} | head.chosen()


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Return what the configuration sets of the head."""
    settings: Any = OmegaConf.to_container(cfg.method.head, resolve=True)
    del settings["_target_"]
    return dict(settings)


def check_views(cfg: DictConfig, head_class: Any, views: int | None) -> list[float] | None:
    """Return the weights of the depth maps, None for photographs.

    Raises:
        UserError: the head is not made for what the dataset holds, or the weights do not fit.
    """
    if views is None and head_class.depth_maps == "joint":
        raise UserError(
            f"method={cfg.method.name} joins the depth maps of a point cloud, and "
            f"{cfg.dataset.name} has none: choose a dataset of point clouds, or another method."
        )
    if views is not None and head_class.depth_maps == "refused":
        raise UserError(
            f"method={cfg.method.name} is defined for images only, and {cfg.dataset.name} holds "
            "point clouds: choose another method, or pointclip."
        )
    return None if views is None else _view_weights(cfg, head_class, views)


def _view_weights(cfg: DictConfig, head_class: Any, views: int) -> list[float]:
    """Read `dataset.view_weights`; a search begins with equal ones."""
    weights = cfg.dataset.view_weights
    if weights == "search" and head_class.sees != "image":
        raise UserError(
            f"dataset.view_weights=search: what method={cfg.method.name} answers depends on which "
            "images it sees together, so no validation image says how. Give uniform, or numbers."
        )
    if weights == "search" and cfg.selection.name in WITHOUT_VALIDATION:
        raise UserError(
            "dataset.view_weights=search needs point clouds to search on, and "
            f"selection={cfg.selection.name} gives none: choose selection=val or val_few_shot, or "
            "view_weights=uniform."
        )
    if weights in ("uniform", "search"):
        return [1.0] * views
    if (
        not isinstance(weights, ListConfig)
        or len(weights) != views
        or not all(isinstance(weight, int | float) for weight in weights)
    ):
        raise UserError(
            f"dataset.view_weights={weights}: give uniform, search, or {views} numbers, one for "
            "each view."
        )
    return [float(weight) for weight in weights]
