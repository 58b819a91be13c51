import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.heads.mta import Mta
from src.heads.zero_shot import ZeroShot
from tests.heads import plain

SCALE = 20.0


def problem(seed, n=3, k=6, c=3, d=5, spread=0.5):
    """Draw crops that scatter about a common image."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(c, d, generator=generator, dtype=torch.float64)
    image = torch.randn(n, 1, d, generator=generator, dtype=torch.float64)
    return image + spread * torch.randn(n, k, d, generator=generator, dtype=torch.float64), text


def plain_logits(crops, text, lambda_y, lambda_q):
    """Follow the formulas for one image, term by term."""
    x = [plain.normalized(row) for row in crops]
    k = len(x)
    p = [plain.softmax(plain.zero_shot(row, text, SCALE)) for row in x]
    affinity = [[plain.dot(one, other) for other in p] for one in p]

    def distance(a, b):
        return sum((u - v) ** 2 for u, v in zip(a, b, strict=True))

    near = max(1, int(0.3 * (k - 1)))
    bandwidth = []
    for i in range(k):
        nearest = sorted(distance(x[i], x[j]) for j in range(k) if j != i)[:near]
        bandwidth.append(0.5 * sum(nearest) / near)
    mode, y = x[0], [1 / k] * k
    for _ in range(5):
        kernel = [math.exp(-distance(x[i], mode) / (2 * bandwidth[i])) for i in range(k)]
        y = plain.softmax(
            [
                (kernel[i] + lambda_q * sum(affinity[i][j] * y[j] for j in range(k))) / lambda_y
                for i in range(k)
            ]
        )
        weight = [y[i] * kernel[i] for i in range(k)]
        mean = [
            sum(w * row[at] for w, row in zip(weight, x, strict=True)) for at in range(len(mode))
        ]
        mode = plain.normalized([value / sum(weight) for value in mean])
    return plain.zero_shot(mode, text, SCALE)


@given(st.integers(0, 2**31), st.integers(2, 9), st.floats(0.1, 2), st.floats(0, 6))
def test_equals_the_plain_computation(seed, k, lambda_y, lambda_q):
    crops, text = problem(seed, k=k)
    head = Mta(text, SCALE, lambda_y, lambda_q)
    expected = [plain_logits(one, text.tolist(), lambda_y, lambda_q) for one in crops.tolist()]
    torch.testing.assert_close(head(crops), torch.tensor(expected, dtype=torch.float64))


@given(st.integers(0, 2**31))
def test_depends_neither_on_other_images_nor_on_the_order_of_the_random_crops(seed):
    crops, text = problem(seed, n=5)
    head = Mta(text, SCALE, 0.2, 4.0)
    torch.testing.assert_close(head(crops)[2:4], head(crops[2:4]))
    torch.testing.assert_close(head(crops[:, [0, 4, 2, 1, 5, 3]]), head(crops))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_crops_are_classified_as_the_image(dtype):
    crops, text = problem(0, n=20, k=1)
    crops, text = crops.to(dtype), text.to(dtype)
    found = Mta(text, SCALE, 0.2, 4.0)(crops.expand(-1, 7, -1))
    assert found.dtype == dtype
    expected = ZeroShot(text, SCALE)(crops[:, 0])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_crop_that_is_for_another_class_than_the_others_does_not_count():
    text = torch.eye(3, 8, dtype=torch.float64)
    noise, _ = problem(1, n=20, k=11, d=8, spread=0.1)
    crops = text[0] + noise - noise.mean(dim=1, keepdim=True)
    straying = torch.cat([crops, text[1].expand(20, 1, -1)], dim=1)
    head = Mta(text, SCALE, 0.2, 4.0)
    torch.testing.assert_close(head(straying), head(crops), atol=1e-5, rtol=0)
    unaware = Mta(text, SCALE, 0.2, 0.0)
    assert (unaware(straying) - unaware(crops)).abs().max() > 0.01


def test_crops_far_apart_stay_finite_in_float32():
    """A kernel may be 0 for all crops but one, and a group of equal crops has no bandwidth."""
    crops, text = problem(2, n=30, k=9)
    crops[:, 1:5] = -1000 * crops[:, :1]
    crops[:, 5:] = crops[:, 5:6]
    crops[:5] = 0
    logits = Mta(text.float(), 100.0, 1e-3, 50.0)(crops.float())
    assert logits.isfinite().all()


@pytest.mark.parametrize("settings", [(0.0, 4.0), (-1.0, 4.0), (0.2, -1.0)])
def test_weights_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=r"method\.head\.lambda_y=.* method\.head\.lambda_q="):
        Mta(torch.eye(3), SCALE, *settings)
