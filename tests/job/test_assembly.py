"""What is refused and what is dropped when a configuration becomes the objects of a run."""

import pytest
import torch

from src.config import compose
from src.errors import UserError
from src.heads.support import Support
from src.job.assembly import check_method, make_support
from tests.cli import calipers, jobs, refusal
from tests.heads.contract import build


class Source:
    """Gives a support set that lacks images of the second of its three classes."""

    class_names = ("ant", "bee", "cat")
    skipped_images = ()
    n_views = None

    def support(self, shots, seed, inputs, augmentation, imbalance=None):
        return {"global": torch.randn(2, 4, 8)}, torch.tensor([0, 0, 2, 2])


@pytest.mark.parametrize("method", ["tip_adapter", "tip_adapter_f", "gda", "linear_probe"])
def test_a_class_without_a_support_image_is_named_where_the_head_needs_every_class(method):
    cfg = compose([f"method={method}", "shots=2"])
    with pytest.raises(UserError, match="no image of 'bee'"):
        make_support(cfg, Source(), build(cfg.method.head))


def test_a_head_that_is_trained_can_do_without_a_class():
    cfg = compose(["method=clip_adapter", "shots=2"])
    support = make_support(cfg, Source(), build(cfg.method.head))
    assert isinstance(support, Support)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=calip", "++method.head.alpha=2"], "method.head.alpha=2: Calip has no such"),
        (["method=calip", "method.head.beta2=abc"], "method.head.beta2=abc is of the wrong type"),
        (["method=tip_adapter", "++method.support.views=2"], "method.support.views=2: there is no"),
        (["method=tip_adapter", "~method.head.alpha"], "method.head.alpha has no value"),
    ],
)
def test_a_setting_that_a_method_cannot_take_is_refused_in_one_line(tmp_path, arguments, message):
    assert message in refusal(tmp_path, *arguments)


def test_a_method_without_a_support_set_drops_its_settings():
    cfg = compose(["method=zero_shot", "++method.support.crops=2"])
    check_method(cfg)
    assert cfg.method.support is None


def test_a_sweep_may_give_a_setting_that_only_some_methods_have(tmp_path):
    done = calipers(
        tmp_path, "-m", "method=zero_shot,tip_adapter", "++method.support.crops=2", "shots=1",
        "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(jobs(tmp_path)) == 2
    assert "method=zero_shot sees no support set: method.support.crops has no effect" in done.stdout
