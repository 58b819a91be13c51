import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from src.heads import neighbours
from src.heads.neighbours import nearest


def rows_of(seed, n, d=5):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)


def plain(rows, k):
    similarity, index = [], []
    for i, row in enumerate(rows):
        others = [(float(row @ other), j) for j, other in enumerate(rows) if j != i]
        others.sort(key=lambda one: -one[0])
        similarity.append([value for value, _ in others[:k]])
        index.append([j for _, j in others[:k]])
    return torch.tensor(similarity).double(), torch.tensor(index)


@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 6), st.integers(1, 50))
def test_equals_comparing_each_row_with_each_other(seed, n, k, strip):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "ROWS", strip)
        similarity, index = nearest(rows_of(seed, n), k)
    expected, numbers = plain(rows_of(seed, n), k)
    torch.testing.assert_close(similarity, expected)
    assert index.tolist() == numbers.tolist()


@pytest.mark.parametrize("n", [0, 1])
def test_there_is_no_neighbour_without_another_row(n):
    similarity, index = nearest(torch.ones(n, 4), 3)
    assert similarity.shape == index.shape == (n, 0)
    assert index.dtype == torch.int64


def test_equal_rows_are_neighbours_and_no_row_is_its_own():
    rows = rows_of(3, 6).repeat(3, 1)
    similarity, index = nearest(rows, 2)
    torch.testing.assert_close(similarity, torch.ones(18, 2).double())
    for row, found in enumerate(index.tolist()):
        assert sorted([row, *found]) == [row % 6, row % 6 + 6, row % 6 + 12]


@pytest.mark.parametrize("arranged", ["ascending", "descending"])
def test_rows_in_order_of_their_likeness(arranged, monkeypatch):
    """Each strip brings something nearer to every later row, or nothing at all."""
    monkeypatch.setattr(neighbours, "ROWS", 7)
    angle = torch.linspace(0, 1, 50, dtype=torch.float64).square()
    angle = angle if arranged == "ascending" else angle.flip(0)
    rows = torch.stack([angle.cos(), angle.sin()], dim=1)
    similarity, index = nearest(rows, 3)
    expected, numbers = plain(rows, 3)
    torch.testing.assert_close(similarity, expected)
    assert index.sort(dim=1).values.tolist() == numbers.sort(dim=1).values.tolist()


def test_float32_features_across_strips():
    rows = rows_of(0, 1_300, 16).float()
    similarity, index = nearest(rows, 4)
    whole = rows @ rows.T
    whole.fill_diagonal_(-2)
    torch.testing.assert_close(similarity, whole.topk(4, dim=1).values)
    torch.testing.assert_close(whole.gather(1, index), similarity)
    assert similarity.dtype == torch.float32
