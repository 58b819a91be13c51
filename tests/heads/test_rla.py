import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from src.errors import UserError
from src.heads.rla import RegularisedLinearAdapter
from src.heads.support import Support
from tests.heads import plain
from tests.heads.fit import build_head, configuration, fit
from tests.heads.test_clap import SCALE, problem
from tests.shared import needs_shared


def adapter(text, support, ridge=None):
    head = RegularisedLinearAdapter(text, SCALE, ridge)
    head.prepare(support)
    return head


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_equals_the_plain_computation(seed, shots):
    text, image, support = problem(seed, shots=shots)
    head = adapter(text, support)
    generator = torch.Generator().manual_seed(1)
    width = text.shape[1]
    residual = torch.randn(width, width, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        head.residual += residual
    linear = (torch.eye(width) + residual).tolist()
    mapped = [[plain.dot(row, f) for row in linear] for f in image.tolist()]
    expected = [plain.zero_shot(f, text.tolist(), SCALE) for f in mapped]
    torch.testing.assert_close(head(image), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(head(7 * image), head(image))

    label = torch.arange(len(image)) % len(text)
    distance = sum(
        (a - float(row == column)) ** 2
        for row, values in enumerate(linear)
        for column, a in enumerate(values)
    )
    expected = cross_entropy(head(image), label) + distance / shots
    torch.testing.assert_close(head.loss(head(image), label), expected)


def test_the_ridge_is_that_of_the_largest_class_unless_it_is_given():
    text, _, support = problem(0, shots=3)
    label = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    assert adapter(text, Support(support.features, label)).ridge == 1 / 4
    assert adapter(text, Support(support.features, label), ridge=0.7).ridge == 0.7
    with pytest.raises(UserError, match=r"method\.head\.ridge=-1\.0 is negative"):
        RegularisedLinearAdapter(text, SCALE, ridge=-1.0)
    with pytest.raises(RuntimeError, match="prepare the head"):
        RegularisedLinearAdapter(text, SCALE).loss(torch.zeros(1, 3), torch.tensor([0]))


def train_plainly(text, support, logit_scale, steps):
    """Train the map itself, as the release does, for the first `steps` of 300."""
    start = torch.eye(text.shape[1])
    linear = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([linear], lr=1e-3, eps=1e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    shots = int(support.label.bincount().max())
    crops = support.features["global"]
    for step in range(steps):
        mapped = crops[step % len(crops)] @ linear.T
        logits = logit_scale * normalize(mapped, dim=-1) @ normalize(text, dim=-1).T
        error = cross_entropy(logits, support.label)
        optimizer.zero_grad()
        (error + (linear - start).square().sum() / shots).backward()
        optimizer.step()
        cosine.step()
    return linear.detach()


def test_the_training_is_that_of_plain_torch():
    text, _, support = problem(0, shots=4, crops=3, dtype=torch.float32)
    cfg = configuration("rla")
    head = build_head(cfg, {"text": text, "logit_scale": SCALE}, support)
    fit(cfg, head, support)
    expected = train_plainly(text, support, SCALE, steps=300)
    torch.testing.assert_close(head.residual + torch.eye(6), expected, atol=1e-4, rtol=1e-4)
    assert head.residual.abs().max() > 0.01


@needs_shared
def test_real_clip_features_are_told_apart_better_than_before(lvis):
    text, split, support = lvis
    image, label = split("test")
    images = support(1)
    cfg = configuration("rla", shots=1)
    head = build_head(cfg, {"text": text, "logit_scale": 100.0}, images)

    def accuracy():
        return 100 * (head(image).argmax(dim=1) == label).double().mean().item()

    assert accuracy() == pytest.approx(98.26, abs=0.005)
    fit(cfg, head, images)
    assert accuracy() > 98.5
