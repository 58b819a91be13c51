"""The table of methods: every method has a row."""

from src.methods.__main__ import COLUMNS, names, row
from tests.cli import run


def test_every_method_has_a_row():
    rows = [row(name) for name in names()]
    for cells in rows:
        assert len(cells) == len(COLUMNS)
        assert all(cells)
        assert not {"|", "\n"} & set("".join(cells))


def test_the_command_prints_every_method():
    done = run("src.methods", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in names())
