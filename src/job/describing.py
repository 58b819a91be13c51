"""What a classifier says of itself, from the objects that adapted it."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from src.classifier.classifier import portable
from src.classifier.folder import OF_CLIP, About
from src.clip.licences import licence
from src.clip.precision import FLOAT32
from src.features.source import FeatureSource
from src.heads.multi_view import MultiView
from src.job.assembly import hyperparameters, make_class_prompts, preprocessing_of
from src.methods.base import Method


def describe(
    cfg: DictConfig,
    source: FeatureSource,
    method: Method,
    adapted_on: Mapping[str, Any],
    **more: Any,
) -> About:
    """Describe an adapted method.

    Args:
        cfg: what it was adapted by.
        source: where its features came from, which has a backbone.
        method: as it stands.
        adapted_on: what `About` tells of that.
        more: further fields of `About`.
    """
    origin = source.origin
    settings = hyperparameters(cfg, method.head)
    settings.pop("view_weights", None)
    head = method.head
    return About(
        method=cfg.method.name,
        settings=settings,
        view_weights=head.view_weights if isinstance(head, MultiView) else None,
        class_names=list(source.class_names),
        prompts=make_class_prompts(cfg, source.class_names),
        logit_scale=source.logit_scale,
        logit_bias=source.logit_bias,
        backbone=origin.backbone,
        architecture=portable(str(origin.architecture)),
        pretrained=cfg.backbone.pretrained,
        preprocessing=preprocessing_of(cfg),
        weights=str(origin.weights),
        precision=origin.precision or FLOAT32,
        inputs=list(method.inputs),
        adapted_on=dict(adapted_on),
        temperature=method.temperature,
        licence=licence(cfg.backbone.pretrained, str(origin.architecture)),
        **more,
    )


def given_to(method: Method, source: FeatureSource) -> dict[str, Any]:
    """Gather what the method's head was built from, but for what is CLIP's own."""
    head = method.head.head if isinstance(method.head, MultiView) else method.head
    return {name: getattr(source, name) for name in head.given if name not in OF_CLIP}
