import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from src.errors import UserError
from src.heads import zlap
from src.heads.zlap import Zlap
from tests.shared import needs_shared


def problem(seed, n=7, c=4, d=6):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(c, d, generator=generator, dtype=torch.float64)
    return text, torch.randn(n, d, generator=generator, dtype=torch.float64)


def matrix(image, text, neighbours, gamma):
    """Make the release's normalised graph, node by node; texts come first."""
    n, c = len(image), len(text)
    image, text = (
        (rows / rows.norm(dim=1, keepdim=True)).numpy() for rows in (image.double(), text.double())
    )
    weight = np.zeros((c + n, c + n))
    for i, row in enumerate(image):
        near = sorted(range(n), key=lambda j: -(row @ image[j]))[: min(neighbours, n)]
        for j in near:
            weight[c + i, c + j] = max(row @ image[j], 0)
        near = sorted(range(c), key=lambda j: -(row @ text[j]))[: min(neighbours, c)]
        for j in near:
            weight[c + i, j] = max(row @ text[j], 0) ** gamma
    weight = weight + weight.T
    weight = weight - np.diag(weight.diagonal())
    degree = weight.sum(axis=1)
    degree[degree == 0] = 1
    return weight / np.sqrt(np.outer(degree, degree))


def plain_shares(image, text, neighbours, gamma, alpha):
    c = len(text)
    normalized = matrix(image, text, neighbours, gamma)
    system = np.eye(len(normalized)) - alpha * normalized
    score = np.stack([np.linalg.solve(system, seed)[c:] for seed in np.eye(len(system))[:c]], 1)
    total = score.sum(axis=1, keepdims=True)
    return np.where(total > 1e-14, score / np.where(total > 1e-14, total, 1), 1 / c)


@given(
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(1, 6),
    st.floats(0, 6),
    st.floats(0.01, 0.95),
)
def test_equals_the_plain_computation(seed, n, c, neighbours, gamma, alpha):
    text, image = problem(seed, n, c)
    head = Zlap(text, neighbours, gamma, alpha)
    expected = plain_shares(image, text, neighbours, gamma, alpha)
    found = head(image)
    np.testing.assert_allclose(found.softmax(dim=1).numpy(), expected, atol=1e-9)
    near = torch.from_numpy(expected) > 1e-6
    torch.testing.assert_close(found[near], torch.from_numpy(expected)[near].log())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_scores_solve_the_linear_system(dtype, alpha):
    text, image = problem(3, n=40, c=5)
    head = Zlap(text.to(dtype), 5, 5.0, alpha)
    graph = head._graph(normalize(image.to(dtype), dim=1))
    score = head._spread(graph, 1, 3)
    seed = torch.zeros_like(score)
    seed[1:4] = torch.eye(3)
    residual = score - alpha * graph.times(score) - seed
    assert residual.abs().max() < 10 * torch.finfo(dtype).eps
    expected = matrix(image, text, 5, 5.0)
    np.testing.assert_allclose(graph.times(torch.eye(45, dtype=dtype)), expected, atol=1e-6)
    solved = np.linalg.solve(np.eye(45) - alpha * expected, np.eye(45)[:, 1:4])
    np.testing.assert_allclose(score, solved, atol=1e-6)


def test_classes_in_several_blocks_are_the_same(monkeypatch):
    text, image = problem(4, n=30, c=7)
    whole = Zlap(text, 5, 5.0, 0.3)(image)
    monkeypatch.setattr(zlap, "CLASSES", 3)
    torch.testing.assert_close(Zlap(text, 5, 5.0, 0.3)(image), whole)


@given(st.integers(0, 2**31))
def test_the_order_of_the_images_does_not_matter(seed):
    text, image = problem(seed, n=20)
    head = Zlap(text, 5, 5.0, 0.3)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(head(image[order]), head(image)[order])


def test_images_of_any_kind_get_finite_answers():
    text, image = problem(5, n=6, c=3)
    head = Zlap(text.float(), 5, 5.0, 0.3)
    image = image.float()
    far = -normalize(text, dim=1).sum(dim=0, keepdim=True).float()
    for images in (
        image[:1],
        image[:2],
        image[:1].repeat(9, 1),
        torch.zeros(2, 6),
        torch.cat([image, torch.zeros(1, 6)]),
        torch.cat([image[:2].repeat(6, 1), far]),
    ):
        found = head(images)
        assert found.shape == (len(images), 3)
        assert found.dtype == torch.float32
        assert found.isfinite().all()


def test_an_image_that_no_text_reaches_has_equal_shares():
    text = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    image = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.2, 0.0]])
    found = Zlap(text, 5, 5.0, 0.3)(image).softmax(dim=1)
    torch.testing.assert_close(found[0], torch.tensor([0.5, 0.5]))
    assert found[1, 0] > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 5.0, 0.3), r"method\.head\.neighbours=0"),
        ((5, 5.0, 1.0), r"method\.head\.alpha=1\.0"),
        ((5, 5.0, -0.1), r"method\.head\.alpha=-0\.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Zlap(torch.eye(3), *settings)


def accuracy(logits, label):
    return 100 * (logits.argmax(dim=1) == label).double().mean().item()


@needs_shared
def test_real_clip_features_give_the_known_accuracy(lvis):
    """An independent computation gave 96.64, below zero-shot CLIP's 98.26: classes are unequal."""
    text, split, _ = lvis
    image, label = split("test")
    assert accuracy(Zlap(text, 5, 5.0, 0.3)(image), label) == pytest.approx(96.64, abs=0.25)


@needs_shared
def test_real_clip_features_of_balanced_classes_give_the_known_accuracy(lvis, balanced):
    text, _, _ = lvis
    image, label = balanced
    zero_shot = normalize(image, dim=1) @ normalize(text, dim=1).T
    assert accuracy(zero_shot, label) == pytest.approx(97.62, abs=0.005)
    assert accuracy(Zlap(text, 5, 5.0, 0.3)(image), label) == pytest.approx(96.83, abs=0.4)
