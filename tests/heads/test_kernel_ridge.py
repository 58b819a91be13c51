import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge as Reference

from src.errors import UserError
from src.heads import kernel_ridge
from src.heads.kernel_ridge import KernelRidge
from src.heads.support import Support
from src.heads.zero_shot import ZeroShot
from src.methods.search import Range, Search, Values
from tests.heads import plain
from tests.shared import needs_shared


def problem(seed, n=5, c=3, d=6, shots=2, views=2):
    generator = torch.Generator().manual_seed(seed)
    text, image, support = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((c, d), (n, d), (views, c * shots, d))
    )
    label = torch.arange(c).repeat(shots)[torch.randperm(c * shots, generator=generator)]
    return text, Support({"global": support}, label), image


def prepared(text, support, ridge=0.1, logit_scale=20.0, **settings):
    head = KernelRidge(text, logit_scale, ridge, **settings)
    head.prepare(support)
    return head


def plain_prior(feature, text, scale, prior):
    cosines = plain.zero_shot(feature, text, 1.0)
    return cosines if prior == "cosine" else plain.softmax([scale * z for z in cosines])


def plain_logits(image, text, support, scale, ridge, beta, alpha, prior):
    """Follow the equations entry by entry, and invert the system instead of solving it."""
    views, label = support.features["global"].tolist(), support.label.tolist()
    crops = [zip(*own, strict=True) for own in zip(*views, strict=True)]
    keys = [plain.normalized([sum(column) / len(column) for column in own]) for own in crops]

    def kernel(u, v):
        return math.exp(-beta * sum((a - b) ** 2 for a, b in zip(u, v, strict=True)))

    system = [[kernel(u, v) + ridge * (i == j) for j, v in enumerate(keys)]
              for i, u in enumerate(keys)]  # fmt: skip
    wrong = [
        [float(k == own) - value for k, value in enumerate(plain_prior(key, text, scale, prior))]
        for key, own in zip(keys, label, strict=True)
    ]
    weight = np.linalg.inv(np.array(system)) @ np.array(wrong)
    rows = []
    for feature in image:
        near = np.array([kernel(plain.normalized(feature), key) for key in keys])
        rows.append(np.array(plain_prior(feature, text, scale, prior)) + alpha * (near @ weight))
    return torch.tensor(np.array(rows))


@given(
    st.integers(0, 2**31),
    st.floats(0.01, 10),
    st.floats(0.1, 5),
    st.floats(0, 3),
    st.sampled_from(["softmax", "cosine"]),
)
def test_equals_the_plain_computation(seed, ridge, beta, alpha, prior):
    text, support, image = problem(seed)
    head = prepared(text, support, ridge, beta=beta, alpha=alpha, prior=prior)
    arguments = image.tolist(), text.tolist(), support, 20.0
    expected = plain_logits(*arguments, ridge, beta, alpha, prior)
    torch.testing.assert_close(head(image), expected)
    for other, (base, direction) in zip((3.0, ridge), head.lines((3.0, ridge), image), strict=True):
        expected = plain_logits(*arguments, other, beta, alpha, prior)
        torch.testing.assert_close(base + alpha * direction, expected)


def test_agrees_with_an_independent_kernel_ridge_regression():
    text, support, image = problem(3, n=20, c=4, shots=5)
    head = prepared(text, support, ridge=0.3, beta=0.7)
    reference = Reference(alpha=0.3, kernel="rbf", gamma=0.7)
    reference.fit(head.keys.numpy(), head.residual.numpy())
    unit = torch.nn.functional.normalize(image, dim=-1)
    prior = ZeroShot(text, 20.0)(image).softmax(dim=-1)
    torch.testing.assert_close(head(image), prior + torch.tensor(reference.predict(unit.numpy())))


def test_proker_is_the_cosine_prior_with_alpha_equal_to_the_ridge():
    """The system as that paper's code writes it, where the ridge divides the kernel."""
    text, support, image = problem(4)
    head = prepared(text, support, ridge=0.3, beta=0.5, alpha=0.3, prior="cosine")
    keys, f = head.keys, torch.nn.functional.normalize(image, dim=-1)
    kernel = torch.exp(-(1 - keys @ keys.T))
    wrong = torch.eye(3, dtype=torch.float64)[support.label] - keys @ head.text.T
    weight = torch.linalg.solve(kernel / 0.3 + torch.eye(len(keys)), wrong)
    torch.testing.assert_close(head(image), f @ head.text.T + torch.exp(-(1 - f @ keys.T)) @ weight)


def test_a_large_ridge_leaves_clips_probabilities_and_a_small_one_learns_the_labels():
    text, support, image = problem(5, shots=3)
    far = prepared(text, support, ridge=1e9)
    torch.testing.assert_close(far(image), ZeroShot(text, 20.0)(image).softmax(dim=-1))
    near = prepared(text, support, ridge=1e-9)
    expected = torch.nn.functional.one_hot(support.label, 3).double()
    torch.testing.assert_close(near(near.keys), expected, atol=1e-5, rtol=0)


def test_choosing_a_ridge_is_as_good_as_starting_with_it():
    text, support, image = problem(6)
    head = prepared(text, support, ridge=0.1)
    head.choose({"ridge": 2.0, "alpha": 0.5})
    torch.testing.assert_close(head(image), prepared(text, support, ridge=2.0, alpha=0.5)(image))
    list(head.lines([0.01, 5.0], image))
    head.choose({"ridge": 5.0})
    torch.testing.assert_close(head(image), prepared(text, support, ridge=5.0, alpha=0.5)(image))


def test_a_search_solves_once_for_each_ridge(monkeypatch):
    text, support, image = problem(7, n=40)
    label = torch.arange(40) % 3
    head = prepared(text, support)
    solved = []
    solve = KernelRidge._solve
    monkeypatch.setattr(
        KernelRidge, "_solve", lambda self, ridges: solved.extend(ridges) or solve(self, ridges)
    )
    values = Values("ridge", (0.01, 0.1, 1.0))
    search = Search("exact", values, Range("alpha", 0.1, 10.0, 20), {"ridge": 0.1, "alpha": 1.0})
    for part in torch.arange(40).split(9):
        search.add(head, [image[part]], label[part])
    choice = search.best()
    head.choose(choice.settings)
    assert sorted(solved) == [0.01, 1.0], "0.1 was solved for before"
    found = 100 * (head(image).argmax(dim=1) == label).double().mean()
    assert choice.accuracy == pytest.approx(found.item())


def test_many_keys_are_solved_in_float32(monkeypatch):
    text, support, image = problem(8)
    single = text.float(), support._replace(features={"global": support.features["global"].float()})
    expected = prepared(*single)(image.float())
    monkeypatch.setattr(kernel_ridge, "EXACT_KEYS", 1)
    found = prepared(*single)
    assert found.weight.dtype == torch.float32
    torch.testing.assert_close(found(image.float()), expected, atol=1e-5, rtol=1e-5)


def test_a_ridge_too_small_for_equal_images_is_refused(monkeypatch):
    monkeypatch.setattr(kernel_ridge, "EXACT_KEYS", 1)
    text, support, _ = problem(9, d=2, shots=70)
    crowded = support._replace(features={"global": support.features["global"].float()})
    with pytest.raises(UserError, match=r"method\.head\.ridge=1e-12 is too small for 210"):
        prepared(text.float(), crowded, ridge=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ridge": 0.0}, r"method\.head\.ridge=0\.0"),
        ({"beta": -1.0}, r"method\.head\.beta=-1\.0"),
        ({"prior": "text"}, r"method\.head\.prior=text is unknown: give softmax or cosine"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        KernelRidge(torch.eye(3), 1.0, **({"ridge": 1.0} | settings))


@needs_shared
@pytest.mark.parametrize(
    ("ridge", "accuracies"),
    [(0.1, (98.51, 98.63, 99.13, 98.63, 98.75)), (1.0, (98.38, 98.51, 98.63, 98.63, 98.75))],
)
def test_real_clip_features_give_the_known_accuracies(lvis, ridge, accuracies):
    """An independent computation gave these."""
    text, split, support = lvis
    image, label = split("test")
    for shots, accuracy in zip((1, 2, 4, 8, 16), accuracies, strict=True):
        head = prepared(text, support(shots), ridge, logit_scale=100.0)
        found = 100 * (head(image).argmax(dim=1) == label).double().mean().item()
        assert found == pytest.approx(accuracy, abs=0.005), shots
