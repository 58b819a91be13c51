import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.heads.support import Support
from src.heads.tip_adapter import TipAdapter
from src.heads.zero_shot import ZeroShot
from src.methods.search import Range, Search
from tests.heads import plain
from tests.shared import SHARED, needs_shared

CALTECH101 = SHARED / "clip_features/caltech101_vit_b32"


def problem(seed, n=5, c=3, d=6, shots=2, views=2, dtype=torch.float64):
    """Draw text features, a support set in random order, and images with labels."""
    generator = torch.Generator().manual_seed(seed)
    text, image, support = (
        torch.randn(*shape, generator=generator, dtype=dtype)
        for shape in ((c, d), (n, d), (views, c * shots, d))
    )
    order = torch.randperm(c * shots, generator=generator)
    label = torch.arange(c).repeat_interleave(shots)[order]
    expected = torch.randint(c, (n,), generator=generator)
    return text, Support({"global": support}, label), image, expected


def prepared(text, support, alpha=1.17, beta=1.0, logit_scale=100.0):
    head = TipAdapter(text, logit_scale, alpha, beta)
    head.prepare(support)
    return head.requires_grad_(False)


def one_hot_loop(head, image, label, outer, inner):
    """Search as the release does: try every cell of the grid in turn and keep the first best."""
    image = F.normalize(image, dim=-1)
    clip = head.logit_scale * image @ head.text.T
    affinity, values = image @ head.keys.T, F.one_hot(head.label).to(image)
    best = (-1, None, None)
    for beta in outer.grid():
        cache = (-beta + beta * affinity).exp() @ values
        for alpha in inner.grid():
            right = int(((clip + alpha * cache).argmax(dim=1) == label).sum())
            if right > best[0]:
                best = (right, beta, alpha)
    return best


def grid_search(head, image, label, outer, inner):
    search = Search("grid", outer, inner, {"alpha": 1.0, "beta": 1.0})
    for rows in torch.arange(len(label)).split(100):
        search.add(head, [image[rows]], label[rows])
    return search.best()


@given(st.integers(0, 2**31), st.integers(1, 3), st.floats(0, 30), st.floats(0, 30))
def test_equals_the_plain_computation(seed, views, alpha, beta):
    text, support, image, _ = problem(seed, views=views)
    head = prepared(text, support, alpha, beta)
    expected = [
        plain.tip_adapter(
            f, support.features["global"].tolist(), support.label.tolist(), text.tolist(),
            100.0, alpha, beta,
        )
        for f in image.tolist()
    ]  # fmt: skip
    torch.testing.assert_close(head(image), torch.tensor(expected, dtype=torch.float64))
    for other_beta, (base, direction) in zip(
        (0.3, beta), head.lines((0.3, beta), image), strict=True
    ):
        head.beta = other_beta
        torch.testing.assert_close(base + alpha * direction, head(image))


@given(st.integers(0, 2**31))
def test_grid_search_picks_what_a_loop_over_the_grid_picks(seed):
    text, support, image, label = problem(seed, n=40)
    head = prepared(text, support, logit_scale=3.0)
    outer, inner = Range("beta", 0.1, 7.0, 12), Range("alpha", 0.1, 30.0, 15)
    right, beta, alpha = one_hot_loop(head, image, label, outer, inner)
    choice = grid_search(head, image, label, outer, inner)
    assert choice.settings == {"beta": beta, "alpha": alpha}
    assert choice.accuracy == pytest.approx(100 * right / 40)


def test_without_the_cache_it_is_zero_shot():
    text, support, image, _ = problem(0)
    assert torch.equal(prepared(text, support, alpha=0.0)(image), ZeroShot(text, 100.0)(image))


def test_lengths_do_not_matter_but_those_of_views_weigh_the_mean():
    text, support, image, _ = problem(1)
    head, views = prepared(text, support), support.features["global"]
    scaled = support._replace(features={"global": 1000 * views})
    torch.testing.assert_close(head(image), prepared(7 * text, scaled)(0.01 * image))
    uneven = views * torch.tensor([1.0, 3.0])[:, None, None]
    expected = F.normalize(views[0] + 3 * views[1], dim=-1)
    other = prepared(text, support._replace(features={"global": uneven}))
    torch.testing.assert_close(other.keys, expected, check_dtype=False)


def test_half_precision_views_make_float32_keys():
    text, support, image, _ = problem(2, dtype=torch.float32)
    half = support._replace(features={"global": support.features["global"].half()})
    head = prepared(text, half)
    assert head.keys.dtype == head(image).dtype == torch.float32
    torch.testing.assert_close(head.keys, prepared(text, support).keys, atol=2e-3, rtol=0)


def test_only_the_keys_are_trained_and_they_are_not_normalised_again():
    text, support, image, _ = problem(3)
    head = TipAdapter(text, 100.0, 1.17, 1.0)
    head.prepare(support)
    assert [name for name, _ in head.named_parameters()] == ["keys"]
    label = image.new_tensor([0, 1, 2, 0, 1], dtype=torch.long)
    F.cross_entropy(head(image), label).backward()
    assert head.keys.grad.abs().amax(dim=1).gt(0).all()
    before = head(image)
    head.keys.data *= 1.5
    assert not torch.allclose(before, head(image))


@needs_shared
@pytest.mark.parametrize(
    ("shots", "accuracy"), [(1, 98.51), (2, 98.38), (4, 98.75), (8, 97.51), (16, 97.26)]
)
def test_real_clip_features_give_the_known_accuracies(lvis, shots, accuracy):
    text, split, support = lvis
    image, label = split("test")
    head = prepared(text, support(shots), alpha=3.0, beta=1.0)
    assert len(label) == 803
    right = (head(image).argmax(dim=1) == label).float().mean()
    assert round(100 * float(right), 2) == accuracy


@needs_shared
def test_grid_search_on_real_features_picks_what_the_release_would(lvis):
    text, split, support = lvis
    image, label = split("val")
    head = prepared(text, support(16)).double()
    outer, inner = Range("beta", 0.1, 12.0, 200), Range("alpha", 0.1, 5.0, 20)
    right, beta, alpha = one_hot_loop(head, image.double(), label, outer, inner)
    choice = grid_search(head, image.double(), label, outer, inner)
    assert choice.settings == {"beta": beta, "alpha": alpha}
    assert choice.accuracy == pytest.approx(100 * right / len(label))


def test_a_smaller_cache_holds_the_means_of_groups_of_images():
    text, support, image, _ = problem(0, shots=5)
    whole, merged = (TipAdapter(text, 100.0, 1.17, 1.0, size) for size in (None, 2))
    for head in (whole, merged):
        head.prepare(support)
    assert merged.label.tolist() == [0, 0, 1, 1, 2, 2]
    for label in range(3):
        keys = whole.keys[whole.label == label]
        means = [keys[:3].mean(dim=0), keys[3:].mean(dim=0)]
        expected = torch.stack([mean / mean.norm() for mean in means])
        assert torch.allclose(merged.keys[merged.label == label], expected)
    full = TipAdapter(text, 100.0, 1.17, 1.0, 5)
    full.prepare(support)
    assert torch.allclose(full(image), whole(image)), "only the keys' order differs"


@pytest.mark.parametrize("size", [0, 6])
def test_a_cache_size_beyond_the_images_is_refused(size):
    text, support, _, _ = problem(0, shots=5)
    with pytest.raises(UserError, match=f"cache_size={size} .* 5 images per class"):
        TipAdapter(text, 100.0, 1.17, 1.0, size).prepare(support)
