"""The table of methods: every method has a row, in a terminal of any width."""

import sys

import pytest

from src.methods import __main__ as table
from src.methods.__main__ import COLUMNS, main, names, row


@pytest.fixture(scope="module")
def rows():
    return {name: row(name) for name in names()}


def test_every_method_has_a_row(rows):
    for cells in rows.values():
        assert len(cells) == len(COLUMNS)
        assert all(cells)
        assert not {"|", "\n"} & set("".join(cells))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_and_words_stay_whole(rows, width, monkeypatch, capsys):
    monkeypatch.setattr(table, "row", rows.get)
    monkeypatch.setattr(sys, "argv", ["methods"])
    monkeypatch.setenv("COLUMNS", str(width))
    main()
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    words = set(printed.split())
    assert set(names()) <= words
    for cells in rows.values():
        assert {word for cell in cells[1:] for word in cell.split()} <= words
