import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from src.heads.linear_probe import LinearProbe
from src.heads.support import Support


def problem(seed, c=3, d=5, shots=4, views=1, noise=1.0, n=30):
    """Draw a support set around class centres, and n labelled images of the same kind."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(c, d, generator=generator)
    label = torch.arange(c).repeat(shots)
    expected = torch.arange(n) % c

    def near(label, *sizes):
        return centres[label] + noise * torch.randn(*sizes, len(label), d, generator=generator)

    return Support({"global": near(label, views)}, label), near(expected), expected


def probe(c, d=5, strength=1.0):
    return LinearProbe(torch.zeros(c, d), strength)


@pytest.mark.parametrize("c", [2, 3])
def test_logits_are_those_of_the_regression_on_every_view(c):
    support, image, _ = problem(0, c=c, views=2)
    head = probe(c)
    head.prepare(support)
    head.fit(0.1)
    rows = torch.cat(list(support.features["global"])).double().numpy()
    regression = LogisticRegression(C=0.1, max_iter=1000).fit(
        rows, np.tile(support.label.numpy(), 2)
    )
    torch.testing.assert_close(
        head(image).softmax(dim=1),
        torch.from_numpy(regression.predict_proba(image.double().numpy())).float(),
    )
    assert head.c == 0.1


def test_prepare_fits_at_the_setting():
    support, image, _ = problem(1)
    prepared, fitted = probe(3, strength=0.01), probe(3)
    prepared.prepare(support)
    fitted.prepare(support)
    assert not torch.equal(prepared(image), fitted(image))
    fitted.fit(0.01)
    assert torch.equal(prepared(image), fitted(image))
    assert list(prepared.parameters()) == []


def test_the_penalty_is_l2_over_c():
    """At the optimum the gradient of cross-entropy summed over images is -weight / C."""
    support, _, _ = problem(2)
    head = probe(3, strength=0.5)
    head.prepare(support)
    weight = head.weight.clone().requires_grad_()
    logits = support.features["global"][0] @ weight.T + head.bias
    F.cross_entropy(logits, support.label, reduction="sum").backward()
    torch.testing.assert_close(weight.grad, -head.weight / 0.5, atol=5e-3, rtol=0)


def lpclip(support, validation, expected):
    """CoOp's search as the authors wrote it: separate fits, and an interval halved in log10 C."""
    features, label = support.features["global"][0].double().numpy(), support.label.numpy()

    def accuracy(c):
        regression = LogisticRegression(C=c, max_iter=1000).fit(features, label)
        return np.mean(regression.predict(validation.double().numpy()) == expected.numpy())

    coarse = [1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6]
    peak = coarse[int(np.argmax([accuracy(c) for c in coarse]))]
    left, right = 1e-1 * peak, 1e1 * peak
    for _ in range(8):
        left_accuracy, right_accuracy = accuracy(left), accuracy(right)
        middle = 10 ** (0.5 * (np.log10(left) + np.log10(right)))
        if left_accuracy < right_accuracy:
            chosen, left = (right, right_accuracy), middle
        else:
            chosen, right = (left, left_accuracy), middle
    return chosen


def test_it_chooses_c_as_lpclip_does_and_does_not_change_the_head():
    exponents = []
    for seed in range(1, 7):
        support, validation, expected = problem(seed, c=6, d=6, shots=16, n=600)
        head = probe(6, d=6)
        head.prepare(support)
        before = head.weight.clone()
        c, accuracy = head.choose_c(validation, expected)
        expected_c, expected_accuracy = lpclip(support, validation, expected)
        assert c == pytest.approx(expected_c)
        assert accuracy == pytest.approx(100 * expected_accuracy)
        assert head.c == 1.0
        assert torch.equal(head.weight, before)
        head.fit(c)
        right = (head(validation).argmax(dim=1) == expected).float().mean()
        assert accuracy == pytest.approx(100 * float(right))
        exponents.append(np.log10(c))
    assert len({round(exponent, 2) for exponent in exponents}) > 3  # The search does change C.


def test_one_image_per_class_is_fitted_without_a_warning():
    support, _, _ = problem(3, c=30, shots=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe(30).prepare(support)
