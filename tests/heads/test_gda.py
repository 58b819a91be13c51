import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn.functional import normalize

from src.heads.gda import Gda
from src.heads.support import Support
from src.methods.search import Search, Values
from tests.heads import plain
from tests.shared import needs_shared

VALUES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)


def problem(seed, n=5, c=3, d=6, shots=3, crops=2):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(c, d, generator=generator, dtype=torch.float64)
    image = torch.randn(n, d, generator=generator, dtype=torch.float64)
    views = torch.randn(crops, c * shots, d, generator=generator, dtype=torch.float64)
    return text, image, Support({"global": views}, torch.arange(c).repeat(shots))


def prepared(text, support, alpha=1.0, logit_scale=20.0):
    head = Gda(text, logit_scale, alpha)
    head.prepare(support)
    return head


def plain_logits(row, text, support, alpha, logit_scale):
    """Follow the release line by line, with its own torch.cov and pseudo-inverse."""
    samples, labels = [], []
    for crop in support.features["global"].tolist():
        for feature, label in zip(crop, support.label.tolist(), strict=True):
            samples.append(plain.normalized(feature))
            labels.append(label)
    samples, labels = np.array(samples), np.array(labels)
    means = [samples[labels == label].mean(axis=0) for label in range(len(text))]
    rows = np.stack([x - means[label] for x, label in zip(samples, labels, strict=True)])
    covariance = np.cov(rows.T)
    width = rows.shape[1]
    ridge = (len(rows) - 1) * covariance + np.trace(covariance) * np.eye(width)
    precision = width * np.linalg.pinv(ridge)
    f = np.array(plain.normalized(row))
    gaussian = [
        f @ precision @ mean - math.log(len(means)) - 0.5 * mean @ precision @ mean
        for mean in means
    ]
    clip = plain.zero_shot(row, text.tolist(), logit_scale)
    return [z + alpha * g for z, g in zip(clip, gaussian, strict=True)]


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 4), st.floats(0, 30))
def test_equals_the_plain_computation(seed, crops, shots, alpha):
    text, image, support = problem(seed, crops=crops, shots=shots)
    head = prepared(text, support, alpha)
    expected = [plain_logits(row, text, support, alpha, 20.0) for row in image.tolist()]
    torch.testing.assert_close(head(image), torch.tensor(expected), atol=1e-6, rtol=1e-6)


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 5))
def test_agrees_with_an_independent_discriminant_analysis(seed, crops, shots):
    """Balanced classes: the ridge is then a shrinkage of the pooled covariance, times a factor."""
    text, _, support = problem(seed, crops=crops, shots=shots, c=4)
    head = prepared(text, support)
    x = normalize(support.features["global"].flatten(end_dim=1), dim=-1).numpy()
    label = support.label.repeat(crops).numpy()
    samples, width = x.shape
    lda = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=width / (samples - 1 + width), priors=[0.25] * 4
    ).fit(x, label)
    factor = width * (samples - 1) / (samples * (samples - 1 + width))
    torch.testing.assert_close(head.weight, torch.tensor(factor * lda.coef_))
    # The prior does not come with the factor.
    own = factor * (lda.intercept_ + math.log(4)) - math.log(4)
    torch.testing.assert_close(head.bias, torch.tensor(own))


def test_one_sample_per_class_leaves_clips_answers():
    text, image, support = problem(0, shots=1, crops=1)
    head = prepared(text, support, alpha=100.0)
    expected = [plain.zero_shot(row, text.tolist(), 20.0) for row in image.tolist()]
    constant = head(image) - torch.tensor(expected)
    torch.testing.assert_close(constant, torch.full_like(constant, -100.0 * math.log(3)))


def test_the_search_has_no_outer_setting():
    text, image, support = problem(1, n=40)
    label = torch.arange(40) % 3
    head = prepared(text, support)
    for mode in ("grid", "exact"):
        search = Search(mode, None, Values("alpha", VALUES), {"alpha": 0.1})
        for part in torch.arange(40).split(9):
            search.add(head, [image[part]], label[part])
        choice = search.best()
        assert set(choice.settings) == {"alpha"}
        assert search.surface() is None
        head.choose(choice.settings)
        found = 100 * (head(image).argmax(dim=1) == label).double().mean()
        assert choice.accuracy == pytest.approx(found.item())
        accuracies = []
        for alpha in VALUES:
            head.choose({"alpha": alpha})
            accuracies.append(100 * (head(image).argmax(dim=1) == label).double().mean().item())
        if mode == "grid":
            assert choice.settings["alpha"] == VALUES[int(np.argmax(accuracies))]
        assert choice.accuracy >= max(accuracies) - 1e-9


@needs_shared
@pytest.mark.parametrize(
    ("shots", "at_one", "by_validation"),
    [(2, 91.53, 98.63), (4, 97.63, 99.50), (8, 94.52, 98.51), (16, 98.01, 98.88)],
)
def test_real_clip_features_give_the_known_accuracies(lvis, shots, at_one, by_validation):
    """An independent computation gave these; α is the nearest to 1 of those best on val."""
    text, split, support = lvis
    (val, val_label), (test, test_label) = split("val"), split("test")
    head = prepared(text, support(shots), alpha=1.0, logit_scale=100.0)

    def accuracy(image, label):
        return 100 * (head(image).argmax(dim=1) == label).double().mean().item()

    assert accuracy(test, test_label) == pytest.approx(at_one, abs=0.005)
    found = {}
    for alpha in VALUES:
        head.choose({"alpha": alpha})
        found[alpha] = accuracy(val, val_label)
    best = [alpha for alpha in VALUES if found[alpha] == max(found.values())]
    head.choose({"alpha": min(best, key=lambda alpha: abs(math.log(alpha)))})
    assert accuracy(test, test_label) == pytest.approx(by_validation, abs=0.005)


def test_new_classes_are_made_of_text_and_the_samples_near_it():
    """The statistics of the release's script for base and new classes, class by class."""
    generator = np.random.default_rng(0)
    width, alpha, scale = 12, 0.3, 20.0
    crops = torch.from_numpy(generator.normal(size=(2, 50, width)))
    support = Support({"global": crops.float()}, torch.arange(50) % 5)
    text = torch.from_numpy(generator.normal(size=(5, width))).float()
    new = torch.from_numpy(generator.normal(size=(3, width))).float()
    head = Gda(text, scale, alpha)
    head.prepare(support)
    other = head.for_classes({"text": new, "logit_scale": scale}, {"alpha": alpha}, support)

    samples = crops.float().double().numpy().reshape(-1, width)
    samples = samples / np.linalg.norm(samples, axis=1, keepdims=True)
    means, precisions = [], []
    unit = (new.double() / new.double().norm(dim=1, keepdim=True)).numpy()
    for word in unit:
        near = sorted(samples, key=lambda sample: -(sample @ word))[:64]
        means.append((sum(near) + 16 * word) / 80)
        covariance = sum(np.outer(sample - word, sample - word) for sample in near) / 63
        ridge = 63 * covariance + np.trace(covariance) * np.eye(width)
        precisions.append(width * np.linalg.pinv(ridge))
    precision = sum(precisions) / len(precisions)
    images = generator.normal(size=(7, width))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    for image, found in zip(images, other(torch.from_numpy(images).float()), strict=True):
        expected = [
            scale * image @ word
            + alpha * (image @ precision @ mean - np.log(3) - mean @ precision @ mean / 2)
            for word, mean in zip(unit, means, strict=True)
        ]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4, rtol=1e-4)
