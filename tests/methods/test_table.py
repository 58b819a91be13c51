"""The table of methods: every method has a row, and the README's is this one."""

from src.files import ROOT
from src.methods.__main__ import COLUMNS, markdown, names, row
from tests.cli import run

BEGIN, END = "<!-- python -m src.methods --markdown -->\n", "<!-- end -->"


def test_the_readme_has_the_present_table():
    rows = [row(name) for name in names()]
    for cells in rows:
        assert len(cells) == len(COLUMNS)
        assert all(cells)
        assert not {"|", "\n"} & set("".join(cells))
    text = (ROOT / "README.md").read_text()
    assert text.split(BEGIN)[1].split(END)[0] == markdown(rows)


def test_the_command_prints_every_method():
    done = run("src.methods", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in names())
