"""Settings that were published for CLIP's similarities, on backbones that have others.

OpenAI's models have a logit scale of 100 and similarities of 0.15 to 0.35 between images and texts.
A loss with a sigmoid leads to others. There, a head's factors on similarities are multiplied by the
backbone's logit scale over 100. Its factors on 1 - affinity are multiplied so that the mean of that
over the support images becomes `CLIP_DISTANCE`; the range in which a search looks moves along.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from omegaconf import DictConfig, ListConfig, OmegaConf

from src.config import is_default
from src.features.source import FeatureSource
from src.heads.base import Head
from src.heads.support import Support
from src.resolvers import DEFAULTS, settings_from

CLIP_SCALE = 100.0
"""The logit scale of OpenAI's models."""
CLIP_DISTANCE = 0.4
"""The mean of 1 - cosine similarity over all pairs of different images: with OpenAI's ViT-B/32 it
is 0.46 on Caltech101 and 0.34 on DTD (measured on their published features)."""
FOR_CLIP = f"{DEFAULTS}, for CLIP's similarities"
"""Where the settings of a run come from whose backbone has others, and none was scaled."""
SCALED = f"{DEFAULTS}, scaled from CLIP's similarities: "
"""Likewise, where some were; their names and factors follow."""
SIGMOID, SOFTMAX = "sigmoid", "softmax"

log = logging.getLogger(__name__)


def trained_with(source: FeatureSource) -> str:
    """Say by which function the backbone was trained; nothing if that is not known."""
    if source.logit_bias != 0:
        return SIGMOID
    return "" if source.origin.architecture is None else SOFTMAX


def scale(cfg: DictConfig, source: FeatureSource, head: Head, support: Support | None) -> None:
    """Scale those of the head's settings that were published for CLIP's range to the backbone's.

    Nothing is scaled that the user gave, that was set for this backbone, or that belongs to a
    checkpoint; nor a factor on affinities where no support image says how large these are.
    """
    if not (head.similarity_factors or head.affinity_factors) or cfg.ckpt_path is not None:
        return
    if trained_with(source) != SIGMOID or settings_from(cfg) != DEFAULTS:
        return
    factors = dict.fromkeys(head.similarity_factors, source.logit_scale / CLIP_SCALE)
    if head.affinity_factors and support is not None:
        factors |= dict.fromkeys(head.affinity_factors, CLIP_DISTANCE / _distance(support))
    head.scale_settings(
        {name: factor for name, factor in factors.items() if is_default(cfg, f"head.{name}")}
    )


def _distance(support: Support) -> float:
    """Compute the mean of 1 - cosine similarity over all pairs of support images.

    It is `CLIP_DISTANCE` where there is no such pair, or all images are alike.
    """
    crops = support.features["global"].double()
    images = F.normalize(crops.mean(dim=0).flatten(0, -2), dim=-1)
    pairs = len(images) * (len(images) - 1)
    similarity = images.sum(dim=0).square().sum() - len(images)
    distance = 1 - float(similarity) / pairs if pairs else 0.0
    return distance if distance > 1e-6 else CLIP_DISTANCE


def scaled_search(search: DictConfig, factors: Mapping[str, float]) -> dict[str, Any]:
    """Move the ranges of a method's `search` along with the settings that were multiplied."""
    plain: Any = OmegaConf.to_container(search, resolve=True)
    outer = plain.get("outer") or []
    for axis in (*(outer if isinstance(outer, list) else [outer]), plain["inner"]):
        factor = factors.get(axis["setting"], 1.0)
        for end in {"low", "high"} & set(axis):
            axis[end] *= factor
        if "values" in axis:
            axis["values"] = [value * factor for value in axis["values"]]
    return dict(plain)


def settings_of(
    cfg: DictConfig, source: FeatureSource, head: Head, settings: Mapping[str, Any]
) -> str:
    """Say where a head's settings came from, and for which similarities they were published.

    Args:
        cfg: the configuration.
        source: where the features came from.
        head: the head, as it was tested.
        settings: its settings.
    """
    origin = settings_from(cfg)
    if trained_with(source) != SIGMOID or origin != DEFAULTS or not _real(settings):
        return origin
    if not head.scaled:
        return FOR_CLIP
    return SCALED + ", ".join(f"{name} by {factor:.3g}" for name, factor in head.scaled.items())


def say(
    cfg: DictConfig,
    source: FeatureSource,
    selection: str,
    settings: Mapping[str, Any],
    scaled: Mapping[str, float],
) -> None:
    """Log which settings were published for CLIP's similarities, and what was done about each."""
    known = _named(cfg.method.search) if selection not in ("fixed", "validation_free") else []
    real = _real(settings)
    by = [f"{name} (by {factor:.3g})" for name, factor in scaled.items()]
    searched = [name for name in real if name in known]
    others = [
        f"{name}={value:g}"
        for name, value in real.items()
        if name not in known and name not in scaled
    ]
    said = [f"scaled to the backbone: {', '.join(by)}"] if by else []
    said += [f"searched by selection={selection}: {', '.join(searched)}"] if searched else []
    said += [f"left as published: {', '.join(others)}"] if others else []
    log.info(
        "%s was trained with a sigmoid, and the settings of %s were published for CLIP's "
        "similarities; %s",
        source.origin.backbone,
        cfg.method.name,
        "; ".join(said),
    )


def _real(settings: Mapping[str, Any]) -> dict[str, float]:
    """Choose the settings that are no counts, names or switches."""
    return {name: value for name, value in settings.items() if isinstance(value, float)}


def _named(node: Any) -> list[str]:
    """List the settings that the `search` of a method's YAML names."""
    if isinstance(node, ListConfig):
        return [name for one in node for name in _named(one)]
    if not isinstance(node, DictConfig):
        return []
    own = [str(node.setting)] if "setting" in node else []
    return own + [name for one in node.values() for name in _named(one)]
