import pytest
import torch
from hydra.utils import get_class
from torch import nn

from src.config import compose
from src.errors import UserError
from src.heads.base import ContractError, Head, check, check_built
from src.heads.multi_view import MultiView
from src.heads.zero_shot import ZeroShot
from tests.heads.contract import (
    CLASSES,
    IMAGES,
    METHODS,
    VIEWS,
    build,
    check_head,
    features,
    logits,
)


@pytest.mark.parametrize("method", METHODS)
def test_every_head_keeps_the_contract(method):
    dataset = "solids" if method == "pointclip" else "digits"
    described = compose([f"method={method}", f"dataset={dataset}"]).method
    check_head(described.head, described.search)


class Good(Head):
    searched = ("alpha",)

    def __init__(self, text, logit_scale, alpha: float, keys: int | None = None):
        super().__init__()
        self.alpha = alpha


def changed(**attributes):
    return type("Changed", (Good,), attributes)


@pytest.mark.parametrize(
    ("head_class", "message"),
    [
        (nn.Linear, "not a subclass"),
        (changed(inputs=("global", "colour")), "`inputs` names 'colour'"),
        (changed(given=("text", "logit_scale", "prophecy")), "`given` names 'prophecy'"),
        (changed(given=("text", "logit_scale", "raw_text")), "`given` names 'raw_text'"),
        (changed(searched=("gamma",)), "`searched` names 'gamma'"),
    ],
)
def test_a_class_that_breaks_the_contract_is_refused(head_class, message):
    with pytest.raises(ContractError, match=message):
        check(head_class, {"alpha": 1.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.0, "beta": 2.0}, r"method\.head\.beta=2\.0: Good has no such setting"),
        ({}, r"method\.head\.alpha has no value"),
        ({"alpha": "much"}, r"method\.head\.alpha=much is of the wrong type: give a number"),
        ({"alpha": True}, r"method\.head\.alpha=True is of the wrong type"),
        ({"alpha": 1, "keys": 1.5}, r"method\.head\.keys=1\.5 .* an integer or null"),
        ({"alpha": 1.0, "text": "x"}, "Good has no such setting"),
    ],
)
def test_settings_that_a_head_cannot_take_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        check(Good, settings)


@pytest.mark.parametrize("settings", [{"alpha": 1}, {"alpha": 0.5, "keys": 3}, {"alpha": 1.0}])
def test_settings_that_a_head_can_take_are_taken(settings):
    check(Good, settings)


def test_a_searched_setting_must_be_a_number_of_that_name():
    head = Good(None, 1.0, alpha=1.0)
    check_built(head)
    head.alpha = nn.Dropout(0.5)
    with pytest.raises(ContractError, match=r"self\.alpha"):
        check_built(head)


def test_a_setting_that_is_not_searched_may_be_kept_in_any_form():
    class Dropping(ZeroShot):
        def __init__(self, text, logit_scale, dropout: float):
            super().__init__(text, logit_scale)
            self.dropout = nn.Dropout(dropout)

    check(Dropping, {"dropout": 0.1})
    head = Dropping(torch.eye(3), 1.0, 0.1)
    check_built(head)
    assert head.chosen() == {}


def test_only_a_searched_setting_can_be_chosen():
    head = Good(None, 1.0, alpha=1.0)
    for name in ("text", "__class__", "training"):
        with pytest.raises(ContractError, match=name):
            head.choose({name: 1})


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.requires_grad_(False)


class WithTower(Head):
    frozen = ("tower",)

    def __init__(self):
        super().__init__()
        self.tower = Tower()
        self.weight = nn.Parameter(torch.ones(2))


def test_a_frozen_tower_stays_out_of_checkpoints_and_in_evaluation_mode():
    head = WithTower()
    check_built(head)
    whole = nn.ModuleDict({"head": head, "tower": Tower()})
    assert set(head.state_dict()) == {"weight"}
    saved = whole.state_dict()
    assert "head.weight" in saved
    assert not any(key.startswith("head.tower") for key in saved)
    assert any(key.startswith("tower.") for key in saved)
    whole.load_state_dict(saved)
    head.load_state_dict({"weight": torch.zeros(2)})
    assert not head.weight.any()
    with pytest.raises(RuntimeError, match="Missing key"):
        head.load_state_dict({})
    assert head.train().training
    assert not head.tower.training
    assert not head.tower.norm.training


def test_a_frozen_tower_that_would_be_trained_is_refused():
    head = WithTower()
    head.tower.requires_grad_(True)
    with pytest.raises(ContractError, match="`tower` is not a frozen submodule"):
        check_built(head)


@pytest.mark.parametrize("method", METHODS)
def test_every_head_that_can_reads_point_clouds(method):
    """In training a head may give more than the classes, which its own loss reads."""
    node = compose([f"method={method}"]).method.head
    if get_class(node["_target_"]).depth_maps != "each":
        return
    cloud = build(node)
    several = MultiView(cloud, [1.0] * VIEWS)
    images = list(features(type(cloud), IMAGES, VIEWS).values())
    several.eval()
    found = logits(several, images)
    each = [logits(cloud, [image[:, view] for image in images]) for view in range(VIEWS)]
    torch.testing.assert_close(found, torch.stack(each).mean(dim=0), atol=1e-4, rtol=1e-4)
    several.train()
    loss = several.loss(several(*images), torch.arange(IMAGES) % CLASSES)
    assert loss.isfinite()
