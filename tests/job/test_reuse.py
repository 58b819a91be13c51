"""What a checkpoint must share with the run that evaluates it."""

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from src.config import compose
from src.errors import UserError
from src.features.source import Origin
from src.job.reuse import adopt, check
from src.methods.checkpoint import Saved
from tests.cli import calipers, refusal

HERE = Origin("tiny", "a", "w", "p", "32-true")
RESULT = {
    "dataset": "digits", "backbone": "tiny", "weights": "w", "prompts": "p", "shots": 1, "seed": 2,
}  # fmt: skip
CLASSES = ["ant", "bee"]


def saved(class_names=CLASSES, **result):
    return Saved(Path("c.ckpt"), RESULT | result, class_names, {})


def test_a_checkpoint_of_the_same_classes_prompts_and_backbone_fits_any_dataset():
    check(saved(), "others", HERE, CLASSES)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (saved(["ant", "cow"]), "tells 2 classes apart that are not those of digits: it has no"),
        (saved(["bee", "ant"]), "it has others, or another order"),
        (saved(backbone="rn50"), "was made with backbone rn50, and this run has tiny"),
        (saved(weights="v"), "was made with weights v, and this run has w"),
        (saved(prompts="q"), "was made with prompts q, and this run has p"),
    ],
)
def test_a_checkpoint_for_something_else_is_refused(checkpoint, message):
    with pytest.raises(UserError, match=message) as caught:
        check(checkpoint, "digits", HERE, CLASSES)
    assert "dataset=digits backbone=" in str(caught.value)
    assert "shots=1 seed=2" in str(caught.value)


def test_a_checkpoint_of_an_earlier_version_counts_for_its_own_dataset():
    check(saved(class_names=None), "digits", HERE, CLASSES)
    with pytest.raises(UserError, match="was made with dataset digits, and this run has letters"):
        check(saved(class_names=None), "letters", HERE, CLASSES)


@pytest.fixture
def adopting(monkeypatch):
    """Adopts a checkpoint with certain settings, and returns the configuration."""
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"overrides": {"task": []}}))

    def adopted(**hyperparameters):
        cfg = compose(["method=clip_adapter"])
        adopt(cfg, saved(hyperparameters=hyperparameters))
        return cfg

    return adopted


def test_only_settings_of_the_head_pass_from_a_checkpoint(adopting):
    before = compose(["method=clip_adapter"])
    cfg = adopting(
        residual_ratio=0.7, _target_="os.system", __class__="x", reader={"_target_": "x"},
        templates=["x"], name="x",
    )  # fmt: skip
    assert (cfg.method.head.residual_ratio, cfg.shots, cfg.seed) == (0.7, 1, 2)
    assert cfg.method.head._target_ == before.method.head._target_
    assert cfg.dataset == before.dataset


def test_a_checkpoint_has_nothing_looked_up(adopting):
    with pytest.raises(UserError, match="is not a value"):
        adopting(residual_ratio="${oc.env:HOME}")


def test_a_checkpoint_of_digits_is_refused_on_a_folder_of_ten_other_classes(tmp_path):
    training = ("method=clip_adapter", "shots=1", "method.training.epochs=1", "logger=none")
    assert calipers(tmp_path, *training).returncode == 0
    (tmp_path / "output").rename(tmp_path / "trained")
    message = refusal(
        tmp_path, "method=clip_adapter", "dataset=letters", "logger=none",
        f"ckpt_path={tmp_path}/trained/checkpoint.ckpt",
    )  # fmt: skip
    assert "tells 10 classes apart that are not those of letters" in message
    assert not list(tmp_path.glob("output/*.json"))
