import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from src.heads.clip_adapter import ClipAdapter
from src.heads.zero_shot import ZeroShot
from tests.heads import plain


def problem(seed, residual_ratio=0.2, n=4, c=3, d=8):
    torch.manual_seed(seed)
    text, image = (torch.randn(*shape, dtype=torch.float64) for shape in ((c, d), (n, d)))
    return text, image, ClipAdapter(text, 100.0, residual_ratio).double()


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_equals_the_plain_computation(seed, residual_ratio):
    text, image, head = problem(seed, residual_ratio)
    down, up = (weight.tolist() for weight in head.parameters())
    expected = [
        plain.clip_adapter(f, text.tolist(), 100.0, down, up, residual_ratio)
        for f in image.tolist()
    ]
    torch.testing.assert_close(head(image), torch.tensor(expected, dtype=torch.float64))


def test_without_the_adapter_s_share_it_is_zero_shot():
    text, image, head = problem(0, residual_ratio=0.0)
    torch.testing.assert_close(head(image), ZeroShot(text, 100.0)(image))


def test_only_the_adapter_is_trained():
    _, image, head = problem(1)
    assert [tuple(weight.shape) for weight in head.parameters()] == [(2, 8), (8, 2)]
    F.cross_entropy(head(image), torch.tensor([0, 1, 2, 0])).backward()
    assert all(weight.grad.any() for weight in head.parameters())


def test_the_global_seed_decides_the_initial_weights():
    (_, _, one), (_, _, same), (_, _, other) = problem(2), problem(2), problem(3)
    for weight, again, different in zip(
        one.parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(weight, again)
        assert not torch.equal(weight, different)
