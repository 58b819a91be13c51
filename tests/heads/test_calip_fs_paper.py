import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.heads.calip_fs_paper import CalipFSPaper
from src.heads.multi_view import MultiView
from tests.heads.plain import dot, normalized, softmax


def layer(linear, x):
    rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    return [dot(row, x) + bias for row, bias in rows]


def average(weights, rows):
    return [dot(weights, column) for column in zip(*rows, strict=True)]


def plain(head, image, spatial, text, scale, beta2, beta3):
    """Compute the logits of one image position by position and class by class."""
    f, t = normalized(image), [normalized(row) for row in text]
    positions = [normalized(row) for row in spatial]
    factor = 1 / math.sqrt(len(f))

    def attend(asking, asked):
        query = layer(head.query, asking)
        weights = softmax([factor * dot(query, layer(head.key, one)) for one in asked])
        return layer(head.output, average(weights, [layer(head.value, one) for one in asked]))

    attended_text = [attend(one, positions) for one in t]
    attended_visual = [attend(one, t) for one in positions]
    pooled = [
        sum(column) / len(column) + max(column) for column in zip(*attended_visual, strict=True)
    ]
    return [
        scale * (dot(f, own) + beta2 * dot(f, attended) + beta3 * dot(pooled, own))
        for own, attended in zip(t, attended_text, strict=True)
    ]


def drawn(seed, shape):
    n, s, c, d = shape
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(*size, d, generator=generator, dtype=torch.float64)
        for size in [(n,), (n, s), (c,)]
    )


shapes = st.tuples(*[st.integers(1, 4)] * 3, st.integers(2, 6))


@given(st.integers(0, 2**31), shapes, st.floats(0, 3), st.floats(0, 2))
def test_logits_equal_the_plain_computation(seed, shape, beta2, beta3):
    image, spatial, text = drawn(seed, shape)
    torch.manual_seed(seed)
    head = CalipFSPaper(text, 20.0, beta2, beta3)
    expected = [
        plain(head, f, s, text.tolist(), 20.0, beta2, beta3)
        for f, s in zip(image.tolist(), spatial.tolist(), strict=True)
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(head(image, spatial), expected)
    for value, (base, direction) in zip(
        (0.3, beta2), head.lines((0.3, beta2), image, spatial), strict=True
    ):
        head.beta2 = value
        torch.testing.assert_close(base + beta3 * direction, head(image, spatial))


def test_only_the_four_shared_layers_are_trained_and_each_of_them_is():
    image, spatial, text = drawn(0, (6, 4, 3, 5))
    head = CalipFSPaper(text, 20.0, 1.0, 0.5)
    names = {name.partition(".")[0] for name, _ in head.named_parameters()}
    assert names == {"query", "key", "value", "output"}
    head.loss(head(image, spatial), torch.arange(6) % 3).backward()
    moved = {name for name, p in head.named_parameters() if p.grad.abs().max() > 1e-12}
    # A bias of the keys over the positions only shifts what a softmax does not see.
    assert moved >= {f"{name}.weight" for name in names} | {"value.bias", "output.bias"}


def test_its_attention_sums_to_one_over_the_positions():
    _, spatial, text = drawn(1, (2, 4, 3, 5))
    for weights in CalipFSPaper(text, 20.0, 1.0, 0.5).attention(spatial):
        assert weights.shape == (2, 4, 3)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 3, dtype=torch.float64))


def test_it_reads_the_depth_maps_of_point_clouds_as_images():
    image, spatial, text = drawn(2, (6, 4, 3, 5))
    head = CalipFSPaper(text, 20.0, 1.0, 0.5)
    several = MultiView(head, [1.0, 1.0]).double()
    logits = several(image.view(3, 2, 5), spatial.view(3, 2, 4, 5))
    torch.testing.assert_close(logits, head(image, spatial).view(3, 2, 3).mean(dim=1))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_layers_begin_as_torch_draws_them(seed):
    _, _, text = drawn(3, (1, 1, 3, 5))
    torch.manual_seed(seed)
    head = CalipFSPaper(text, 20.0, 1.0, 0.5)
    torch.manual_seed(seed)
    expected = torch.nn.Linear(5, 5, dtype=torch.float64)
    assert torch.equal(head.query.weight, expected.weight)
    assert torch.equal(head.query.bias, expected.bias)
