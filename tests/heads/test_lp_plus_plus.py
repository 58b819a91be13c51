import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from src.errors import UserError
from src.heads.lp_plus_plus import LPPlusPlus
from src.methods import lp_plus_plus
from tests.heads import plain
from tests.heads.fit import build_head, configuration, fit
from tests.heads.test_clap import problem
from tests.methods.metrics import Accuracy
from tests.shared import needs_shared


def prepared(text, support, seed=0):
    torch.manual_seed(seed)
    head = LPPlusPlus(text)
    head.prepare(support)
    return head


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_equals_the_plain_computation(seed, shots):
    text, image, support = problem(seed, shots=shots)
    head = prepared(text, support)
    samples = [plain.normalized(row) for row in support.features["global"][0].tolist()]
    labels, classes = support.label.tolist(), [plain.normalized(t) for t in text.tolist()]
    own = [
        [x for x, label in zip(samples, labels, strict=True) if label == c]
        for c in range(len(text))
    ]
    weight = [[sum(column) for column in zip(*rows, strict=True)] for rows in own]
    of_class = [
        sum(plain.dot(x, t) for x in rows) / len(rows) for rows, t in zip(own, classes, strict=True)
    ]
    alpha = 250 * sum(of_class) / len(of_class)
    expected = []
    for row in image.tolist():
        f = plain.normalized(row)
        terms = zip(weight, head.bias.tolist(), classes, strict=True)
        expected.append([plain.dot(f, w) + b + alpha * plain.dot(f, t) for w, b, t in terms])
    torch.testing.assert_close(head(image), torch.tensor(expected, dtype=torch.float64))

    largest = torch.linalg.matrix_norm(torch.tensor(samples), ord=2).item() ** 2
    assert head.weight_rate == pytest.approx(4 * len(samples) / largest, rel=1e-5)
    sums = [sum(plain.dot(x, t) ** 2 for x in samples) for t in classes]
    assert head.alpha_rate == pytest.approx(len(samples) / (4 * max(sums)), rel=1e-5)


def test_the_bias_is_drawn_as_torch_draws_that_of_a_linear_layer():
    text = torch.randn(2000, 16)
    torch.manual_seed(0)
    bias = LPPlusPlus(text).bias.detach()
    assert bias.abs().max() <= 1 / math.sqrt(16)
    assert bias.std().item() == pytest.approx(1 / math.sqrt(3 * 16), rel=0.1)


def train_plainly(head, text, support, epochs):
    """Train by autograd, with all of the gradients set to zero in every epoch."""
    weight, bias, alpha = (
        p.detach().clone().requires_grad_() for p in (head.weight, head.bias, head.alpha)
    )
    optimizer = torch.optim.SGD([weight, bias], lr=head.weight_rate, momentum=0.9)
    x, t = normalize(support.features["global"][0], dim=-1), normalize(text, dim=-1)
    for epoch in range(epochs):
        optimizer.zero_grad()
        alpha.grad = None
        error = cross_entropy(x @ weight.T + bias + alpha * (x @ t.T), support.label)
        error.backward()
        optimizer.step()
        if (epoch + 1) % 10 == 0:
            with torch.no_grad():
                alpha -= head.alpha_rate * alpha.grad
    return weight, bias, alpha


@pytest.mark.parametrize("epochs", [1, 9, 10, 35])
def test_the_training_is_that_of_plain_torch(epochs):
    text, _, support = problem(3, shots=4, crops=1, dtype=torch.float32)
    head = prepared(text, support)
    start = head.alpha.detach().clone()
    expected = train_plainly(head, text, support, epochs)
    cfg = configuration("lp_plus_plus", 16, [f"method.training.epochs={epochs}", "selection=fixed"])
    fit(cfg, head, support)
    for own, plainly in zip((head.weight, head.bias, head.alpha), expected, strict=True):
        torch.testing.assert_close(own.detach(), plainly.detach(), atol=1e-4, rtol=1e-4)
    assert torch.equal(head.alpha, start) == (epochs < 10)


def test_the_gradients_are_those_of_autograd_where_a_probability_underflows():
    text, _, support = problem(0, shots=3, crops=1, dtype=torch.float32)
    head = prepared(text, support)
    with torch.no_grad():
        head.alpha *= 20
    method = lp_plus_plus.LPPlusPlus(head, Accuracy(), "last", 0.9, 10)
    image = support.features["global"][0]
    logits = head(image)
    assert (logits.softmax(dim=-1) == 0).any()
    expected = cross_entropy(logits, support.label)
    gradients = torch.autograd.grad(expected, [head.weight, head.bias])
    torch.testing.assert_close(method._differentiate(image, support.label), expected.detach())
    torch.testing.assert_close((head.weight.grad, head.bias.grad), gradients)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("last", 1.0, 10), r"method\.module\.momentum=1\.0"),
        (("last", 0.9, 0), r"method\.module\.alpha_interval=0"),
        (("middle", 0.9, 10), r"method\.module\.keep=middle"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        lp_plus_plus.LPPlusPlus(LPPlusPlus(torch.eye(3)), Accuracy(), *settings)


def test_a_loss_that_is_not_finite_ends_the_training():
    text, _, support = problem(0, crops=1, dtype=torch.float32)
    head = prepared(text, support)
    support.features["global"][0, 0, 0] = math.nan
    cfg = configuration("lp_plus_plus", 16, ["method.training.epochs=2", "selection=fixed"])
    with pytest.raises(UserError, match="the loss became nan in epoch 0"):
        fit(cfg, head, support)


@needs_shared
@pytest.mark.parametrize(
    ("shots", "before", "after"),
    [
        (1, 98.38, 98.75),
        (2, 98.38, 99.25),
        (4, 98.51, 99.25),
        (8, 98.26, 98.63),
        (16, 98.51, 99.38),
    ],
)
def test_real_clip_features_give_the_known_accuracies(lvis, shots, before, after):
    """An independent computation gave these. The bias that is drawn decides an image or two."""
    text, split, support = lvis
    image, label = split("test")
    cfg, images = configuration("lp_plus_plus", shots, ["selection=fixed"]), support(shots)
    torch.manual_seed(1)
    head = build_head(cfg, {"text": text}, images)

    def accuracy():
        return 100 * (head(image).argmax(dim=1) == label).double().mean().item()

    assert accuracy() == pytest.approx(before, abs=0.13)
    fit(cfg, head, images)
    assert accuracy() == pytest.approx(after, abs=0.5)
