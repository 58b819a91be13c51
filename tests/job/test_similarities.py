"""Settings that were published for CLIP's similarities, on a backbone that has others."""

import logging
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import get_class
from torch.nn import functional as F

from src.config import compose, is_default
from src.features.source import Origin
from src.heads.multi_view import MultiView
from src.heads.support import Support
from src.job import similarities
from src.job.assembly import hyperparameters
from tests.heads.contract import IMAGES, METHODS, build, features, logits
from tests.shared import SHARED, needs_shared


def source(bias: float, architecture: str | None = "ViT-B-16-SigLIP") -> SimpleNamespace:
    origin = Origin("siglip_b16", architecture, None, None, None)
    return SimpleNamespace(logit_bias=bias, logit_scale=112.0, origin=origin)


def composed(*choices: str):
    return compose([*choices, "dataset=dtd", "backbone=siglip_b16"])


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


def built(method: str):
    return build(composed(f"method={method}").method.head)


def support(spread: float) -> Support:
    """Eight images of two classes, whose mean distance grows with `spread`."""
    generator = torch.Generator().manual_seed(0)
    features = torch.ones(3, 8, 16) + spread * torch.randn(3, 8, 16, generator=generator)
    return Support({"global": features}, torch.arange(2).repeat(4))


def plain_distance(shown: Support) -> float:
    images = F.normalize(shown.features["global"].mean(dim=0), dim=-1)
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    return float(sum(1 - images[i] @ images[j] for i, j in pairs) / len(pairs))


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_a_factor_on_affinities_follows_the_support_images(spread):
    cfg, shown, head = composed("method=tip_adapter"), support(spread), built("tip_adapter")
    before = head.beta, head.alpha
    similarities.scale(cfg, source(-16.5), head, shown)
    factor = 0.4 / plain_distance(shown)
    assert head.scaled == {"beta": pytest.approx(factor, rel=1e-4)}
    assert (head.beta, head.alpha) == (pytest.approx(before[0] * factor, rel=1e-4), before[1])
    assert hyperparameters(cfg, head)["beta"] == head.beta


@pytest.mark.parametrize("crops", [torch.ones(2, 8, 4), torch.randn(2, 1, 4)], ids=["alike", "one"])
def test_images_without_a_distance_scale_nothing(crops):
    head, shown = built("tip_adapter"), Support({"global": crops}, torch.zeros(8).long())
    similarities.scale(composed("method=tip_adapter"), source(-16.5), head, shown)
    assert head.scaled == {"beta": 1.0}


def test_a_factor_on_similarities_follows_the_logit_scale():
    cfg, head = composed("method=calip"), built("calip")
    similarities.scale(cfg, source(-16.5), head, None)
    assert head.scaled == {"attention_factor": 1.12}
    assert hyperparameters(cfg, head)["attention_factor"] == pytest.approx(2 * 1.12)
    assert (head.beta2, head.beta3) == (1.12, 0.02)


def test_the_head_of_a_point_clouds_depth_maps_is_scaled():
    cfg, inner = composed("method=calip"), built("calip")
    head = MultiView(inner, [1.0] * 6)
    similarities.scale(cfg, source(-16.5), head, None)
    assert inner.scaled == head.scaled == {"attention_factor": 1.12}
    assert hyperparameters(cfg, head)["attention_factor"] == pytest.approx(2 * 1.12)


def factors_of(method: str) -> list[str]:
    head_class = get_class(composed(f"method={method}").method.head["_target_"])
    return [*head_class.similarity_factors, *head_class.affinity_factors]


@pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method in METHODS for name in factors_of(method)]
)
def test_a_scaled_setting_changes_what_a_head_answers(method, name):
    head = built(method).eval()
    images = list(features(type(head), IMAGES).values())
    before = logits(head, images)
    head.scale_settings({name: 3.0})
    assert head.scaled == {name: 3.0}
    assert not torch.allclose(logits(head, images), before)


@pytest.mark.parametrize(
    ("bias", "choices"),
    [
        (0.0, ["method=tip_adapter"]),
        (-16.5, ["method=tip_adapter", "method.head.beta=2.0"]),
        (-16.5, ["method=tip_adapter", "ckpt_path=mine.ckpt"]),
        (-16.5, ["method=zero_shot"]),
        (-16.5, ["method=tda"]),
    ],
)
def test_other_settings_stay_as_they_are(bias, choices):
    cfg = composed(*choices)
    head = built(cfg.method.name)
    similarities.scale(cfg, source(bias), head, support(1.0) if cfg.method.support else None)
    assert head.scaled == {}


def test_a_setting_is_the_yamls_own_until_it_is_given_another_value():
    assert is_default(composed("method=tip_adapter_f"), "head.beta")
    assert not is_default(composed("method=tip_adapter_f", "method.head.beta=7"), "head.beta")
    assert is_default(composed("method=kernel_ridge"), "head.beta")


def test_the_search_moves_along():
    cfg = composed("method=ape")
    moved = similarities.scaled_search(cfg.method.search, {"beta": 2.0})
    assert [(one["setting"], one["low"], one["high"]) for one in moved["outer"]] == [
        ("beta", 0.2, 14.0),
        ("gamma", 0.1, 0.5),
    ]
    assert moved["inner"] == similarities.scaled_search(cfg.method.search, {})["inner"]
    ridge = similarities.scaled_search(composed("method=kernel_ridge").method.search, {"ridge": 2})
    assert ridge["outer"]["values"] == [0.02, 0.06, 0.2, 0.6, 2.0, 6.0, 20.0]


@pytest.mark.parametrize(
    ("bias", "choices", "scaled", "settings", "found"),
    [
        (-16.5, "method=tip_adapter", {}, {"alpha": 1.0}, "defaults, for CLIP's similarities"),
        (
            -16.5, "method=tip_adapter", {"beta": 1.234}, {"beta": 1.2},
            "defaults, scaled from CLIP's similarities: beta by 1.23",
        ),
        (0.0, "method=tip_adapter", {}, {"alpha": 1.0}, "defaults"),
        (-16.5, "method=coop", {}, {"n_context": 16, "words": "", "share": None}, "defaults"),
    ],
)  # fmt: skip
def test_the_record_says_for_which_similarities_settings_are(
    bias, choices, scaled, settings, found
):
    head = SimpleNamespace(scaled=scaled)
    told = similarities.settings_of(composed(choices), source(bias), head, settings)
    assert told == found


@pytest.mark.parametrize(
    ("choices", "selection", "scaled", "said"),
    [
        ("method=tip_adapter", "fixed", {}, "left as published: alpha=1.17, beta=1"),
        ("method=tip_adapter", "validation_free", {"beta": 2.0},
         "scaled to the backbone: beta (by 2); left as published: alpha=1.17"),
        ("method=tip_adapter", "val", {"beta": 2.0},
         "scaled to the backbone: beta (by 2); searched by selection=val: alpha, beta"),
        ("method=calip", "test", {"attention_factor": 1.12},
         "scaled to the backbone: attention_factor (by 1.12); searched by selection=test: beta2"),
        ("method=ape", "val", {}, "searched by selection=val: alpha, beta, gamma; left as publ"),
    ],
)  # fmt: skip
def test_the_log_says_what_was_done_about_each_setting(caplog, choices, selection, scaled, said):
    caplog.set_level(logging.INFO)
    cfg = compose([*choices.split(), "dataset=dtd", "backbone=vit_b16"])
    settings = {k: v for k, v in cfg.method.head.items() if k != "_target_"}
    similarities.say(cfg, source(-16.5), selection, settings, scaled)
    assert f"siglip_b16 was trained with a sigmoid, and the settings of {cfg.method.name} " in (
        caplog.text
    )
    assert f"CLIP's similarities; {said}" in caplog.text


@needs_shared
@pytest.mark.parametrize(("dataset", "distance"), [("caltech101", 0.46), ("dtd", 0.34)])
def test_the_distance_of_clips_features_is_what_is_said(dataset, distance):
    folder = SHARED / f"clip_features/{dataset}_vit_b32"
    features = torch.load(folder / "val_f.pt", weights_only=True, map_location="cpu")
    shown = Support({"global": features.float().unsqueeze(0)}, torch.zeros(len(features)).long())
    assert similarities._distance(shown) == pytest.approx(distance, abs=0.01)
