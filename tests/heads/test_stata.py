import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from src.errors import UserError
from src.heads import transclip
from src.heads.stata import StatA
from tests.heads import plain
from tests.heads.test_transclip import (
    FLOOR,
    ROUNDS,
    accuracy,
    balanced,
    plain_pull,
    plain_shares,
    problem,
    unit,
)
from tests.shared import needs_shared


def plain_stata(image, text, scale, alpha, rounds):
    """Follow the equations, image by image and class by class."""
    x, t = unit(image), unit(text)
    n, d = x.shape
    classes = range(len(t))
    p = np.array([plain.softmax(plain.zero_shot(row, text, scale)) for row in image])
    pull, z = plain_pull(x), p
    shared = sum(p[i, c] * (x[i] - t[c]) ** 2 for i in range(n) for c in classes) / n
    means, v = t.copy(), np.stack([shared for _ in classes])
    for _ in range(rounds):
        v = np.maximum(v, FLOOR / d)
        likelihood = np.array(
            [
                [-0.5 * sum((row - means[c]) ** 2 / v[c] + np.log(v[c])) for c in classes]
                for row in x
            ]
        )
        z = plain_shares(p, likelihood, pull, z)
        for c in classes:
            predicted = sum(row.argmax() == c for row in z)
            beta = predicted / (alpha + predicted)
            total = sum(z[i, c] for i in range(n))
            mean = np.array(plain.normalized(sum(z[i, c] * x[i] for i in range(n)) / total))
            means[c] = plain.normalized(beta * mean + (1 - beta) * t[c])
            own = sum(z[i, c] * (x[i] - means[c]) ** 2 for i in range(n)) / total
            v[c] = beta * own + (1 - beta) * (shared + (t[c] - means[c]) ** 2)
    return z


@given(st.integers(0, 2**31), st.integers(1, 14), st.sampled_from(ROUNDS), st.floats(0.01, 9))
def test_equals_the_plain_computation(seed, n, rounds, alpha):
    text, image, _ = problem(seed, n=n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transclip, "ROUNDS", rounds)
        found = StatA(text, 20.0, alpha)(image)
    expected = plain_stata(image.tolist(), text.tolist(), 20.0, alpha, rounds)
    torch.testing.assert_close(found.exp(), torch.tensor(expected), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.softmax(dim=1), found.exp())


def test_the_order_of_the_images_does_not_matter():
    text, image, _ = problem(5, n=40)
    head = StatA(text, 20.0, 1.0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(image[order]), head(image)[order])
    torch.testing.assert_close(head(image), head(image), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", ["one", "two", "duplicates", "one class", "no confidence"])
def test_few_and_equal_images_and_classes_without_one_stay_finite(dtype, images):
    text, image, _ = problem(6, n=64, c=50, d=16)
    chosen = {"one": image[:1], "two": image[:2], "duplicates": image[:2].repeat(9, 1)}
    chosen["one class"] = text[:1] + 0.01 * image
    chosen["no confidence"] = image
    head = StatA(text.to(dtype), 1e4 if images == "no confidence" else 100.0, 1.0)
    logits = head(chosen[images].to(dtype))
    assert logits.shape == (len(chosen[images]), 50)
    assert logits.dtype == dtype
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.exp().sum(dim=1), logits.new_ones(len(logits)))


def test_images_that_equal_their_texts_stay_finite():
    text = torch.eye(4)
    logits = StatA(text, 100.0, 1.0)(text[:2].repeat(5, 1))
    assert logits.isfinite().all()
    assert logits.argmax(dim=1).tolist() == [0, 1] * 5


def test_texts_hold_the_classes_where_they_count_as_many_images():
    """With a large alpha only the neighbours move CLIP's answers, and few of them."""
    text, image, _ = problem(8, n=80, d=16)
    clip = normalize(image, dim=1) @ normalize(text, dim=1).T
    moved = [
        100 - accuracy(StatA(text, 20.0, alpha)(image), clip.argmax(dim=1)) for alpha in (1e6, 0.01)
    ]
    assert moved[0] <= moved[1]


def test_an_alpha_of_zero_is_refused():
    with pytest.raises(UserError, match=r"method\.head\.alpha=0\.0 is not above 0"):
        StatA(torch.eye(2), 20.0, 0.0)


@needs_shared
def test_real_clip_features_give_the_known_accuracies(lvis):
    """An independent computation gave these."""
    text, split, _ = lvis
    features, label = split("test")
    head = StatA(text, 100.0, 1.0)
    assert accuracy(head(features), label) == pytest.approx(94.02, abs=0.005)
    some, own = balanced(features, label)
    assert accuracy(head(some), own) == pytest.approx(98.02, abs=0.005)
