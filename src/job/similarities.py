"""Backbones whose cosine similarities have another range than those of OpenAI's CLIP."""

import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig

from src.features.source import FeatureSource
from src.resolvers import DEFAULTS

FOR_CLIP = f"{DEFAULTS}, for CLIP's similarities"
"""Where the settings of a run come from whose backbone has others."""
SIGMOID, SOFTMAX = "sigmoid", "softmax"

log = logging.getLogger(__name__)


def trained_with(source: FeatureSource) -> str:
    """Say by which function the backbone was trained; nothing if that is not known."""
    if source.logit_bias != 0:
        return SIGMOID
    return "" if source.origin.architecture is None else SOFTMAX


def settings_from(origin: str, source: FeatureSource, settings: Mapping[str, Any]) -> str:
    """Say where a head's settings came from, and for which similarities they were published.

    Those of CLIP are about 0.15 to 0.35 between images and texts. A loss with a sigmoid leads to
    others: what it calls a pair begins at -bias / scale, for SigLIP about 0.15.

    Args:
        origin: what the configuration says (`src.resolvers.settings_from`).
        source: where the features came from.
        settings: the head's.
    """
    outside = trained_with(source) == SIGMOID and bool(_real(settings))
    return FOR_CLIP if outside and origin == DEFAULTS else origin


def say(
    cfg: DictConfig, source: FeatureSource, selection: str, settings: Mapping[str, Any]
) -> None:
    """Log which settings were published for CLIP's similarities, and which a search covered."""
    known = _named(cfg.method.search) if selection not in ("fixed", "validation_free") else []
    real = _real(settings)
    searched = [name for name in real if name in known]
    others = [f"{name}={value:g}" for name, value in real.items() if name not in known]
    said = [f"selection={selection} searched {', '.join(searched)}"] if searched else []
    said += [f"nothing searched {', '.join(others)}"] if others else []
    log.info(
        "%s was trained with a sigmoid, and the settings of %s were published for CLIP's "
        "similarities: %s",
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
