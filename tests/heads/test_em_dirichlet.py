import itertools
from statistics import mean

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, gammaln, polygamma
from torch.nn.functional import normalize

from src.errors import UserError
from src.heads import em_dirichlet
from src.heads.em_dirichlet import EmDirichlet, _cluster_of_class, _fit
from src.heads.em_dirichlet_fs import EmDirichletFs
from src.heads.support import Support
from tests.heads import plain
from tests.shared import needs_shared

SCALE = 30.0


def problem(seed, n=9, c=4, d=6, shots=2, crops=2):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(c, d, generator=generator, dtype=torch.float64)
    image = torch.randn(n, d, generator=generator, dtype=torch.float64)
    views = torch.randn(crops, c * shots, d, generator=generator, dtype=torch.float64)
    return text, image, Support({"global": views}, torch.arange(c).repeat(shots))


def plain_q(image, text):
    logits = [plain.zero_shot(row, text.tolist(), SCALE) for row in image.tolist()]
    return np.array([plain.softmax(row) for row in logits])


def plain_fit(alpha, y, updates):
    """Follow the release's `curvature` and `update_alpha`."""
    for step in range(updates):
        slope = digamma(alpha + 1)
        at_least = np.where(alpha > 1e-11, alpha, 1)
        curvature = np.where(
            alpha > 1e-11,
            np.abs(2 * (gammaln(1) - gammaln(alpha + 1) + slope * alpha) / at_least**2),
            polygamma(1, 1),
        )
        b = slope - digamma(alpha.sum(-1))[:, None] - curvature * alpha - y
        new = (-b + np.sqrt(b**2 + 4 * curvature)) / (2 * curvature)
        if step > 0 and step % 50 == 0:
            change = np.linalg.norm(new - alpha) ** 2 / np.linalg.norm(alpha) ** 2
            if change < 1e-11:
                return new
        alpha = new
    return alpha


def plain_u(q, present, rounds, updates, labelled=(), label=()):
    """Follow the release's rounds; `labelled` has its q as well, image by image."""
    n, c = q.shape
    u, alpha, eps = q.copy(), np.ones((c, c)), 1e-15
    weight = int(c / present) * n
    for _ in range(rounds):
        for_y, sizes = np.zeros((c, c)), np.zeros(c)
        for log_row, own in zip(np.log(q + eps), u, strict=True):
            for_y += np.outer(own, log_row)
            sizes += own
        for row, k in zip(labelled, label, strict=True):
            for_y[k] += np.log(row + eps)
            sizes[k] += 1
        # Unlike the release, the rule that ends the updates does not count empty clusters.
        kept = sizes > eps
        alpha[kept] = plain_fit(alpha[kept], for_y[kept] / sizes[kept, None], updates)
        v = np.log(u.sum(axis=0) / n + eps) + 1
        for i, row in enumerate(q):
            logits = [
                gammaln(a.sum()) - gammaln(a).sum() + ((a - 1) * np.log(row + eps)).sum()
                for a in alpha
            ]
            u[i] = plain.softmax(np.array(logits) + weight * v / n)
    return u


def plain_matched(u, q):
    """Try every way to give each cluster that has an image a class of its own."""
    c = u.shape[1]
    clusters = sorted(set(u.argmax(axis=1).tolist()))
    centre = {k: q[u.argmax(axis=1) == k].mean(axis=0) for k in clusters}
    best = max(
        itertools.permutations(range(c), len(clusters)),
        key=lambda classes: sum(centre[k][own] for k, own in zip(clusters, classes, strict=True)),
    )
    class_of = dict(zip(clusters, best, strict=True))
    class_of |= {k: k for k in range(c) if k not in clusters and k not in best}
    free = [own for own in range(c) if own not in class_of.values()]
    class_of |= dict(zip([k for k in range(c) if k not in class_of], free, strict=True))
    matched = np.empty_like(u)
    for k, own in class_of.items():
        matched[:, own] = u[:, k]
    return matched


def assert_answers(logits, expected):
    """Compare probabilities, and the logits of those that count."""
    expected = torch.from_numpy(expected)
    torch.testing.assert_close(logits.softmax(dim=1), expected, atol=1e-6, rtol=0)
    counts = expected > 1e-4
    torch.testing.assert_close(logits[counts], expected[counts].log(), atol=1e-3, rtol=0)


@settings(max_examples=40)
@given(
    st.integers(0, 2**31),
    st.integers(1, 9),
    st.integers(2, 5),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([1, 40, 120]),
)
def test_equals_the_plain_computation(seed, n, c, present, rounds, updates):
    text, image, _ = problem(seed, n, c)
    q = plain_q(image, text)
    expected = plain_matched(plain_u(q, present, rounds, updates), q)
    assert_answers(EmDirichlet(text, SCALE, present, rounds, updates)(image), expected)


@settings(max_examples=25)
@given(
    st.integers(0, 2**31),
    st.integers(1, 9),
    st.integers(2, 5),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_with_a_support_set_equals_the_plain_computation(seed, n, c, present, rounds, shots):
    """The release has one feature of each support image."""
    text, image, support = problem(seed, n, c, shots=shots, crops=1)
    head = EmDirichletFs(text, SCALE, present, rounds, 60)
    head.prepare(support)
    labelled = plain_q(support.features["global"][0], text)
    q = plain_q(image, text)
    expected = plain_u(q, present, rounds, 60, labelled, support.label.tolist())
    assert_answers(head(image), expected)


def test_several_crops_of_a_support_image_count_as_one():
    text, image, support = problem(1, crops=1)
    same = Support({"global": support.features["global"].repeat(3, 1, 1)}, support.label)
    one, three = (EmDirichletFs(text, SCALE, 5, 4, 60) for _ in range(2))
    one.prepare(support)
    three.prepare(same)
    torch.testing.assert_close(three(image), one(image))


@given(st.integers(0, 2**31))
def test_updates_end_where_those_of_the_release_do(seed):
    """These settle, after 51, 101, ... updates: one more or less would show."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(3, 30, 5, generator=generator, dtype=torch.float64).softmax(dim=2)
    y, ones = q.log().mean(dim=1), torch.ones(3, 5, dtype=torch.float64)
    expected = torch.from_numpy(plain_fit(ones.numpy(), y.numpy(), 1000))
    torch.testing.assert_close(_fit(ones, y, 1000), expected, atol=0, rtol=1e-9)


def test_clusters_without_an_image_keep_their_class_where_it_is_free():
    """Cluster 0 gets class 2; 1 and 3 stay what they are, and cluster 2 gets class 0."""
    log_q = torch.tensor([[0.2, 0.1, 0.6, 0.1], [0.3, 0.1, 0.5, 0.1]]).log()
    found = _cluster_of_class(log_q, torch.tensor([0, 0]))
    assert found.tolist() == [2, 1, 0, 3]


def test_two_clusters_of_one_class_get_the_best_two_classes():
    """Both are nearest to class 0; together they have most if the second one gets class 1."""
    log_q = torch.tensor([[0.6, 0.1, 0.3], [0.5, 0.4, 0.1]]).log()
    assert _cluster_of_class(log_q, torch.tensor([1, 2])).tolist() == [1, 2, 0]


def objective(a, y):
    return a.sum(dim=1).lgamma() - a.lgamma().sum(dim=1) + (a * y).sum(dim=1)


@given(st.integers(0, 2**31))
def test_every_update_raises_the_likelihood_until_its_gradient_is_zero(seed):
    generator = torch.Generator().manual_seed(seed)
    q = (2 * torch.randn(3, 30, 5, generator=generator, dtype=torch.float64)).softmax(dim=2)
    y = q.log().mean(dim=1)
    a = torch.ones_like(y)
    for _ in range(5):
        later = _fit(a, y, 1)
        assert (objective(later, y) >= objective(a, y) - 1e-12).all()
        a = later
    a = _fit(a, y, 2000)
    gradient = a.sum(dim=1, keepdim=True).digamma() - a.digamma() + y
    assert gradient.abs().max() < 1e-3


def test_blocks_of_images_and_of_clusters_are_the_same(monkeypatch):
    text, image, _ = problem(2, n=40, c=5)
    whole = EmDirichlet(text, SCALE, 2, 5, 80)(image)
    monkeypatch.setattr(em_dirichlet, "ROWS", 7)
    monkeypatch.setattr(em_dirichlet, "NUMBERS", 10)
    torch.testing.assert_close(EmDirichlet(text, SCALE, 2, 5, 80)(image), whole)


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_the_order_of_the_images_does_not_matter(seed):
    text, image, support = problem(seed, n=20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    few_shot = EmDirichletFs(text, SCALE, 2, 5, 60)
    few_shot.prepare(support)
    for head in (EmDirichlet(text, SCALE, 2, 5, 60), few_shot):
        found, expected = head(image[order]).softmax(dim=1), head(image)[order].softmax(dim=1)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("present", [1, 5])
def test_images_of_any_kind_get_finite_answers(present):
    """With `present` at 1 the clusters are drawn together and most classes have no image."""
    text, image, support = problem(5, n=12, c=6)
    text, image = text.float(), image.float()
    few_shot = EmDirichletFs(text, SCALE, present, 20, 200)
    few_shot.prepare(support)
    for images in (image, image[:1], image[:1].repeat(9, 1), torch.zeros(2, 6), text):
        for head in (EmDirichlet(text, SCALE, present, 20, 200), few_shot):
            found = head(images)
            assert found.shape == (len(images), 6)
            assert found.dtype == torch.float32
            assert found.isfinite().all()
            total = found.exp().sum(dim=1)
            torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", ["scale", "present", "rounds", "updates"])
def test_settings_out_of_range_are_refused(name):
    given_settings = {"scale": 30.0, "present": 5, "rounds": 20, "updates": 1000}
    with pytest.raises(UserError, match=rf"method\.head\.{name}=0"):
        EmDirichlet(torch.eye(3), **given_settings | {name: 0 * given_settings[name]})


def tasks(split, count, size=75):
    """Draw small tasks as the release does, of 3 to 10 classes."""
    image, label = split("test")
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        present = int(torch.randint(3, 11, (), generator=generator))
        classes = torch.randperm(int(label.max()) + 1, generator=generator)[:present]
        of_them = torch.isin(label, classes).nonzero().squeeze(1)
        kept = of_them[torch.randperm(len(of_them), generator=generator)[:size]]
        yield image[kept], label[kept]


def accuracy(logits, label):
    return 100 * (logits.argmax(dim=1) == label).double().mean().item()


@needs_shared
def test_real_clip_features_of_small_tasks_give_the_measured_accuracies(lvis):
    """Means of ten tasks, as measured here: below zero-shot CLIP, which is nearly always right."""
    text, split, support = lvis
    unit = normalize(text, dim=1)
    few_shot = EmDirichletFs(text, SCALE, 5, 20, 1000)
    few_shot.prepare(support(4))
    heads = {
        "zero-shot": lambda image: normalize(image, dim=1) @ unit.T,
        "em_dirichlet": EmDirichlet(text, SCALE, 5, 20, 1000),
        "em_dirichlet_fs": few_shot,
    }
    drawn = list(tasks(split, 10))
    found = {name: mean(accuracy(head(*x), y) for *x, y in drawn) for name, head in heads.items()}
    expected = {"zero-shot": 98.57, "em_dirichlet": 97.64, "em_dirichlet_fs": 98.56}
    assert found == pytest.approx(expected, abs=0.3)


@needs_shared
def test_ending_the_rounds_early_changes_nothing_on_real_clip_features(lvis):
    """The plain computation goes on through all rounds, and through all updates."""
    text, split, _ = lvis
    text = text.double()
    ((image, _),) = tasks(split, 1)
    head = EmDirichlet(text, SCALE, 5, 20, 1000)
    found = head._assign(head._log_q(image.double())).exp()
    expected = plain_u(plain_q(image, text), 5, 20, 1000)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-6, rtol=0)
