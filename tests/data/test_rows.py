"""Items made when they are asked for are those of a plain list, and are drawn alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data import few_shot
from src.data.images import Item
from src.data.rows import Rows, fingerprint, row_of

labels = st.lists(st.integers(0, 4), min_size=1, max_size=40)


def made(of: list[int]) -> Rows:
    return Rows("train", np.arange(len(of))[::-1].copy(), np.array(of))


def plain(of: list[int]) -> list[Item]:
    return [Item(f"train/{len(of) - 1 - position}", label) for position, label in enumerate(of)]


@given(labels)
def test_rows_are_a_list_of_items(of):
    rows, items = made(of), plain(of)
    assert list(rows) == items and len(rows) == len(items) and rows[-1] == items[-1]
    assert list(rows[1:7]) == items[1:7]
    assert all(type(item.label) is int for item in rows)
    assert [row_of(item)[1] for item in rows] == rows.rows.tolist()


@given(labels, st.integers(1, 5), st.integers(0, 3))
def test_shots_are_those_that_are_drawn_from_a_list(of, shots, seed):
    largest = max(np.bincount(of))
    if shots > largest:
        return
    drawn = few_shot.sample(made(of), made(of), shots, seed)
    assert drawn == few_shot.sample(plain(of), plain(of), shots, seed)


@given(labels)
def test_the_fingerprint_is_that_of_the_rows_drawn_one_by_one(of):
    rows = made(of)
    assert fingerprint(rows) == fingerprint(list(rows))
    other = Rows("train", rows.rows, (rows.labels + 1) % 5)
    assert fingerprint(other) != fingerprint(rows)
    assert fingerprint(Rows("test", rows.rows, rows.labels)) != fingerprint(rows)
    if len(rows) > 1:
        assert fingerprint(rows[::-1]) != fingerprint(rows)


def test_a_missing_label_is_a_fault():
    with pytest.raises(ValueError, match="3 rows of train have 2 labels"):
        Rows("train", np.arange(3), np.zeros(2, dtype=np.int64))
