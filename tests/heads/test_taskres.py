import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from src.heads.taskres import TaskRes
from tests.heads import plain
from tests.heads.fit import build_head, configuration, fit
from tests.heads.test_clap import SCALE, problem
from tests.methods.test_first_step import plain_step, train_one_step
from tests.shared import needs_shared


@given(st.integers(0, 2**31), st.floats(-2, 2))
def test_equals_the_plain_computation(seed, alpha):
    text, image, _ = problem(seed)
    head = TaskRes(text, SCALE, alpha)
    start = [plain.zero_shot(row, text.tolist(), SCALE) for row in image.tolist()]
    torch.testing.assert_close(head(image), torch.tensor(start, dtype=torch.float64))
    with torch.no_grad():
        head.residual += text.flip(0)
    classifier = [
        [t + alpha * r for t, r in zip(own, residual, strict=True)]
        for own, residual in zip(text.tolist(), text.flip(0).tolist(), strict=True)
    ]
    expected = [plain.zero_shot(row, classifier, SCALE) for row in image.tolist()]
    torch.testing.assert_close(head(image), torch.tensor(expected, dtype=torch.float64))


def test_the_first_step_is_that_of_plain_torch():
    text, _, support = problem(0, dtype=torch.float32)
    head = TaskRes(text, SCALE, alpha=0.5)
    residual = torch.zeros_like(text, requires_grad=True)
    train_one_step(head, support)
    f, classifier = support.features["global"][0], text + 0.5 * residual
    logits = SCALE * normalize(f, dim=-1) @ normalize(classifier, dim=-1).T
    (expected,) = plain_step([residual], logits, support.label)
    torch.testing.assert_close(head.residual, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("shots", "epochs"), [(1, 100), (4, 100), (8, 200), (16, 200)])
def test_it_trains_as_long_as_the_release(shots, epochs):
    method = configuration("taskres", shots).method
    assert method.training.epochs == method.support.crops == epochs


@needs_shared
@pytest.mark.parametrize(("shots", "accuracy"), [(1, 98.88), (4, 99.63), (16, 99.50)])
def test_real_clip_features_give_the_known_accuracies(lvis, shots, accuracy):
    """An independent computation gave these."""
    text, split, support = lvis
    image, label = split("test")
    cfg, images = configuration("taskres", shots), support(shots)
    head = build_head(cfg, {"raw_text": text, "logit_scale": 100.0}, images)
    fit(cfg, head, images)
    found = 100 * (head(image).argmax(dim=1) == label).double().mean().item()
    assert found == pytest.approx(accuracy, abs=0.5)
