import itertools
import math
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize, one_hot

from src.config import compose
from src.errors import UserError
from src.heads import tda
from src.heads.tda import Tda
from tests.shared import needs_shared

SCALE = 4.0  # entropies of a few random features then lie on both sides of both bounds


def problem(seed, n=30, c=3, d=5):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(c, d, generator=generator, dtype=torch.float64)
    return text, torch.randn(n, d, generator=generator, dtype=torch.float64)


def tied(seed, n=40):
    """Draw images that differ where no class looks, so that many have the very same entropy."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.eye(3, 6, dtype=torch.float64)
    kinds = 1 + torch.rand(4, 6, generator=generator, dtype=torch.float64)
    image = kinds[torch.randint(4, (n,), generator=generator)]
    signs = torch.randint(2, (n, 3), generator=generator) * 2 - 1
    return text, torch.cat([image[:, :3], image[:, 3:] * signs], dim=1)


def put(cache, label, item, capacity):
    """Follow the release's `update_cache`."""
    if label in cache:
        if len(cache[label]) < capacity:
            cache[label].append(item)
        elif item[1] < cache[label][-1][1]:
            cache[label][-1] = item
        cache[label] = sorted(cache[label], key=operator.itemgetter(1))
    else:
        cache[label] = [item]


def votes(f, cache, alpha, beta, classes, mask=None):
    """Follow the release's `compute_cache_logits`."""
    keys, values = [], []
    for label in sorted(cache):
        for item in cache[label]:
            keys.append(item[0])
            values.append(one_hot(torch.tensor(label), classes) if mask is None else item[2])
    keys, values = torch.stack(keys), torch.stack(values)
    if mask is not None:
        values = (values > mask[0]) & (values < mask[1])
    return alpha * (-(beta - beta * (f @ keys.T))).exp() @ values.double()


def plain_stream(image, text, batch_size=1, alpha=2.0, beta=5.0, capacities=(3, 2)):
    """Follow the release image by image; yield the logits of each, and the caches by then.

    Of images that arrive together, all come to the caches before the first is classified.
    """
    f, t, classes = normalize(image, dim=-1), normalize(text, dim=-1), len(text)
    clip = SCALE * f @ t.T
    entropy = -(clip.softmax(1) * clip.log_softmax(1)).sum(1)
    positive, negative = {}, {}
    for rows in torch.arange(len(image)).split(batch_size):
        for i in rows.tolist():
            label, loss = int(clip[i].argmax()), float(entropy[i])
            put(positive, label, [f[i], loss], capacities[0])
            if 0.2 < loss / math.log2(classes) < 0.5:
                put(negative, label, [f[i], loss, clip[i].softmax(0)], capacities[1])
        for i in rows.tolist():
            logits = clip[i].clone()
            if positive:
                logits += votes(f[i], positive, alpha, beta, classes)
            if negative:
                logits -= votes(f[i], negative, 0.117, 1.0, classes, (0.03, 1.0))
            yield logits, (positive, negative)


def plain_logits(*arguments, **settings):
    return torch.stack([logits for logits, _ in plain_stream(*arguments, **settings)])


def contents(cache):
    """List what a cache holds: of each class, the entropies and the keys, surest first."""
    return {
        label: [(entropy, cache.keys[slot].tolist()) for entropy, slot in best]
        for label, best in enumerate(cache.best)
        if best
    }


def head_of(text, **settings):
    return Tda(text, SCALE, **{"alpha": 2.0, "beta": 5.0} | settings)


numbers = st.integers(0, 2**31)


@given(numbers, st.integers(1, 40), st.integers(2, 6), st.integers(1, 7), st.sampled_from([1, 2]))
def test_equals_the_release_image_by_image(seed, n, c, batch_size, fewer):
    text, image = problem(seed, n, c)
    capacities = (4 - fewer, 3 - fewer)
    head = head_of(text, capacity=capacities[0], negative_capacity=capacities[1])
    head.batch_size = batch_size
    expected = plain_logits(image, text, batch_size=batch_size, capacities=capacities)
    torch.testing.assert_close(head(image), expected)


def test_the_random_features_use_both_caches_and_displace_keys():
    """Otherwise the comparisons with the release would show little."""
    text, image = problem(0, 40)
    *_, (_, caches) = plain_stream(image, text)
    assert [sorted(len(own) for own in cache.values()) for cache in caches] == [[3] * 3, [2] * 3]
    with_all, _ = plain_logits(image, text, capacities=(40, 40)), head_of(text)
    assert not torch.allclose(with_all, plain_logits(image, text))


@given(numbers, st.integers(1, 5))
def test_equal_entropies_are_treated_as_in_the_release(seed, batch_size):
    text, image = tied(seed)
    head = head_of(text, batch_size=batch_size)
    torch.testing.assert_close(head(image), plain_logits(image, text, batch_size=batch_size))


def test_the_caches_are_those_of_the_release_after_every_image():
    text, image = problem(3, 60, 4)
    head = head_of(text)
    for row, (_, caches) in zip(image, plain_stream(image, text), strict=True):
        head(row[None])
        for own, cache in zip((head.positive, head.negative), caches, strict=True):
            found = contents(own)
            assert found.keys() == cache.keys()
            for label, items in cache.items():
                for (entropy, key), item in zip(found[label], items, strict=True):
                    assert entropy == pytest.approx(item[1])
                    torch.testing.assert_close(torch.tensor(key).double(), item[0])


@given(numbers, st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=9))
def test_the_division_into_blocks_does_not_matter(seed, batch_size, lengths):
    """Calls have whole batches, except for the last."""
    text, image = problem(seed, 3 + batch_size * sum(lengths))
    whole, parts = head_of(text, batch_size=batch_size), head_of(text, batch_size=batch_size)
    ends = [batch_size * length for length in itertools.accumulate(lengths)]
    found = torch.cat([parts(part) for part in image.tensor_split(ends)])
    torch.testing.assert_close(found, whole(image))
    for name in ("positive", "negative"):
        one, other = (getattr(head, name).best for head in (whole, parts))
        assert [[slot for _, slot in own] for own in one] == [
            [slot for _, slot in own] for own in other
        ]
        torch.testing.assert_close(getattr(whole, name).keys, getattr(parts, name).keys)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_a_long_call_is_cut_into_blocks(monkeypatch, batch_size):
    text, image = problem(5, 47)
    expected = head_of(text, batch_size=batch_size)(image)
    monkeypatch.setattr(tda, "ROWS", 4)
    torch.testing.assert_close(head_of(text, batch_size=batch_size)(image), expected)


def test_a_reset_forgets_the_stream():
    text, image = problem(6)
    head = head_of(text)
    first = head(image)
    assert not torch.allclose(head(image), first)
    head.reset()
    assert torch.equal(head(image), first)
    assert set(head.state_dict()) == {"text"}


def test_the_order_matters():
    text, image = problem(7)
    assert not torch.allclose(head_of(text)(image.flip(0)).flip(0), head_of(text)(image))


def test_an_image_is_in_the_cache_when_it_is_classified():
    text = torch.eye(2, 3, dtype=torch.float64)
    head = head_of(text, alpha=3.0, negative_alpha=0.0)
    expected = torch.tensor([[SCALE + 3.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(head(text[:1]), expected)


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_images_between_all_classes_are_treated_as_in_the_release(classes):
    _, image = problem(8, 6, classes, 4)
    text = torch.ones(classes, 4, dtype=torch.float64)  # every entropy is log c
    torch.testing.assert_close(head_of(text)(image), plain_logits(image, text))


def test_few_images_and_few_classes_give_finite_logits():
    text, image = problem(8, 3, c=2)
    assert head_of(text)(image[:0]).shape == (0, 2)
    assert head_of(text)(image[:1]).isfinite().all()
    assert head_of(text[:1])(image).isfinite().all()  # where no entropy has a share of log 1


def test_no_cache_leaves_clip():
    text, image = problem(9)
    head = head_of(text, alpha=0.0, negative_alpha=0.0)
    torch.testing.assert_close(head(image), SCALE * normalize(image) @ normalize(text).T)


@pytest.mark.parametrize("name", ["capacity", "negative_capacity", "batch_size"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(UserError, match=rf"method\.head\.{name}=0"):
        Tda(torch.eye(3), 100.0, 2.0, 5.0, **{name: 0})


@pytest.mark.parametrize(
    ("backbone", "dataset", "values"),
    [
        ("rn50", "caltech101", (5.0, 5.0)),
        ("vit_b16", "eurosat", (4.0, 8.0)),
        ("vit_b32", "eurosat", (2.0, 5.0)),
        ("rn50", "digits", (2.0, 5.0)),
    ],
)
def test_settings_are_the_release_s_by_dataset(backbone, dataset, values):
    head = compose([f"backbone={backbone}", f"dataset={dataset}", "method=tda"]).method.head
    assert (head.alpha, head.beta) == values
    assert head.batch_size == 1


@needs_shared
@pytest.mark.parametrize(("seed", "known"), [(1, 98.26), (2, 98.75), (3, 98.26)])
def test_real_clip_features_give_the_known_accuracies(lvis, seed, known):
    """An independent loop gave these, to one image; zero-shot CLIP has 98.26."""
    text, split, _ = lvis
    image, label = split("test")
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(seed))
    head = Tda(text, 100.0, 5.0, 5.0)
    logits = torch.cat([head(rows) for rows in image[order].split(256)])
    accuracy = 100 * (logits.argmax(dim=1) == label[order]).double().mean().item()
    assert accuracy == pytest.approx(known, abs=0.13)
    assert 98.2 <= accuracy <= 98.8
