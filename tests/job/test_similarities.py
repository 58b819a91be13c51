"""Settings that were published for CLIP's similarities, on a backbone that has others."""

import logging
from types import SimpleNamespace

import pytest

from src.config import compose
from src.features.source import Origin
from src.job import similarities


def source(bias: float, architecture: str | None = "ViT-B-16-SigLIP") -> SimpleNamespace:
    return SimpleNamespace(
        logit_bias=bias, origin=Origin("siglip_b16", architecture, None, None, None)
    )


@pytest.mark.parametrize(
    ("bias", "architecture", "function"),
    [
        (-16.5, "ViT-B-16-SigLIP", "sigmoid"),
        (-16.5, None, "sigmoid"),
        (0.0, "RN50", "softmax"),
        (0.0, None, ""),
    ],
)
def test_a_bias_tells_that_a_backbone_was_trained_with_a_sigmoid(bias, architecture, function):
    assert similarities.trained_with(source(bias, architecture)) == function


@pytest.mark.parametrize(
    ("bias", "origin", "settings", "found"),
    [
        (-16.5, "defaults", {"alpha": 1.0}, "defaults, for CLIP's similarities"),
        (0.0, "defaults", {"alpha": 1.0}, "defaults"),
        (-16.5, "defaults", {"n_context": 16, "initial_words": "", "share": None}, "defaults"),
        (-16.5, "mine on dtd (conf/settings/a.yaml)", {"alpha": 1.0}, None),
    ],
)
def test_defaults_are_said_to_be_for_clips_similarities(bias, origin, settings, found):
    assert similarities.settings_from(origin, source(bias), settings) == (found or origin)


@pytest.mark.parametrize(
    ("choices", "selection", "said"),
    [
        ("method=tip_adapter", "fixed", "nothing searched alpha=1.17, beta=1"),
        ("method=tip_adapter", "validation_free", "nothing searched alpha=1.17, beta=1"),
        ("method=tip_adapter", "val", "selection=val searched alpha, beta"),
        ("method=calip", "test", "selection=test searched beta2, beta3; nothing searched atten"),
        ("method=ape", "val", "selection=val searched alpha, beta, gamma; nothing searched simil"),
    ],
)
def test_the_log_says_which_settings_a_search_covered(caplog, choices, selection, said):
    caplog.set_level(logging.INFO)
    cfg = compose([*choices.split(), "dataset=dtd", "backbone=vit_b16"])
    settings = {k: v for k, v in cfg.method.head.items() if k != "_target_"}
    similarities.say(cfg, source(-16.5), selection, settings)
    assert f"siglip_b16 was trained with a sigmoid, and the settings of {cfg.method.name} " in (
        caplog.text
    )
    assert f"CLIP's similarities: {said}" in caplog.text
