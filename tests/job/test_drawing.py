import pytest

from src.errors import UserError
from src.heads.support import Support
from src.job import assembly
from tests.heads.fit import Source, configuration
from tests.heads.test_clap import problem


def drawn(method, *overrides):
    _, _, support = problem(0)
    cfg = configuration(method, 16, ["selection=fixed", *overrides])
    return assembly.make_data(cfg, Source(), ("global",), Support(*support))


@pytest.mark.parametrize(
    ("method", "drawing"),
    [("zs_lp", "pooled"), ("clap", "pooled"), ("rla", "whole"), ("lp_plus_plus", "whole"),
     ("clip_adapter", "images"), ("zero_shot", "images")],
)  # fmt: skip
def test_a_method_says_how_its_batches_are_drawn(method, drawing):
    assert drawn(method).drawing == drawing


def test_another_drawing_is_refused():
    with pytest.raises(UserError, match=r"drawing=lots is unknown: give images, pooled, whole"):
        drawn("clap", "method.training.drawing=lots")


def test_batches_need_a_size():
    with pytest.raises(UserError, match=r"needs a batch size: give \+method\.training\.batch_size"):
        drawn("rla", "method.training.drawing=pooled")
    data = drawn("rla", "method.training.drawing=pooled", "+method.training.batch_size=4")
    assert (data.drawing, data.train_rows_per_batch) == ("pooled", 4)
