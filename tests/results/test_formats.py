import csv
import io
import re

import pandas as pd
import pytest

from src.results import formats, names
from src.results.summary import PLACE, Cell
from src.results.summary_tables import Table


@pytest.fixture(autouse=True)
def without_titles(monkeypatch):
    """Leave methods their names here: how they are titled is tested in `test_names.py`."""
    monkeypatch.setattr(names, "_about", dict)


PLAIN = Cell(81.5, None, 1, None, None, False, False, False)
FULL = Cell(92.0, 1.25, 3, 93.0, "b", True, True, True)
TABLE = Table(
    "a_b & 50 % → c", ["4", "16"], {"tip_adapter (val)": [PLAIN, FULL], "x|y": [None, PLAIN]}
)


def test_markdown():
    text = formats.markdown([TABLE])
    assert "| method | 4 | 16 |\n| --- | --- | --- |\n" in text
    assert "| tip_adapter (val) | 81.50 | 92.00†‡§ ± 1.25 (-1.00) |" in text
    assert "| x&#124;y |  | 81.50 |" in text
    for note in (
        "Student's t", "accuracy published in exp.log of the Tip-Adapter repository",
        "chosen on the test split: not comparable", "unlabelled test images", "a part of the test",
    ):  # fmt: skip
        assert note in text


def test_only_the_signs_that_occur_are_explained():
    assert formats.notes([Table("", ["4"], {"coop": [PLAIN]})]) == []


def test_latex_escapes_what_it_would_take_for_commands():
    text = formats.latex([TABLE])
    assert r"\caption{a\_b \& 50 \% $\rightarrow$ c}" in text
    assert (
        r"tip\_adapter (val) & 81.50 & 92.00$^\dagger$$^\ddagger$$^\S$ $\pm$ 1.25 (-1.00) \\"
        in text
    )
    assert r"\begin{tabular}{lrr}" in text
    assert text.count("{") == text.count("}")
    assert r"x\textbar{}y &  & 81.50 \\" in text
    assert "<|>".translate(formats.LATEX) == r"\textless{}\textbar{}\textgreater{}"
    assert "a^b\\#~{}".translate(formats.LATEX) == (
        r"a\textasciicircum{}b\textbackslash{}\#\textasciitilde{}\{\}"
    )


def test_a_sign_reaches_a_paper_with_its_meaning():
    unmarked = Table("plain", ["4"], {"coop": [PLAIN]})
    text = formats.latex([TABLE, unmarked])
    marked, plain = text.split(r"\end{table}")[:2]
    below = marked.split(r"\end{tabular}")[1]
    for meaning in (
        r"$\pm$ is half the 95 \% interval", r"$^\dagger$ settings chosen on the test split",
        r"$^\ddagger$ the method saw", r"$^\S$ tested on a part", r"published in exp.log",
    ):  # fmt: skip
        assert meaning in below
    assert not [line for line in text.splitlines() if line.startswith("% ") and "±" in line]
    assert "footnotesize" not in plain


def test_a_cell_names_what_is_special_about_it():
    cell = PLAIN._replace(validation_free=True, zero_shot=60.25)
    table = TABLE._replace(rows={"clap": [cell, None]})
    assert str(cell) == "81.50¶ [60.25]"
    for written in (formats.markdown([table]), formats.latex([table])):
        assert "validation-free: one setting for all datasets and shots" in written
        assert "zero-shot CLIP with the same prompts" in written
    assert r"81.50$^\P$" in formats.latex([table])


def test_csv_has_a_line_for_each_cell():
    cells = pd.DataFrame(
        [("all_classes", "tiny", "digits", "coop", n, c) for n, c in ((4, PLAIN), (16, FULL))],
        columns=[*PLACE, "cell"],
    )
    plain, full = csv.DictReader(io.StringIO(formats.csv(cells)))
    assert (plain["mean"], plain["interval"], plain["difference"]) == ("81.5", "", "")
    assert (full["shots"], full["seeds"], full["difference"]) == ("16", "3", "-1.0")
    assert full["selected_on_test"] == full["saw_test_images"] == "True"


def test_the_terminal_shows_labels_as_they_are_and_cuts_none(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    formats.show([TABLE._replace(rows={"calip (templates=[red])": [PLAIN, FULL]})])
    printed = capsys.readouterr().out
    assert printed.count("calip (templates=[red])") == 1, "a block of lines"
    assert "92.00†‡§±1.25" in printed


NASTY = [
    "=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "<script>alert(1)</script>", "a|b", "a\nb",
    "$x_1$", "\x1b[31mred", "50 % & more_", "[bold]", "\x9b2J", "a\n\nerror: b", "\\input{x}",
    "![](http://host/x.png)", "# a", "`a`", "**a**", "\n=1",
]  # fmt: skip
"""Names that mean something else to a terminal, to Markdown, HTML, LaTeX or a spreadsheet."""


LATEX_SPECIAL = (
    r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}",
    r"\textgreater{}", r"\textbar{}", "{[}", "{]}", *(f"\\{c}" for c in "&%$#_{}"),
)  # fmt: skip
"""How the characters that LaTeX would obey are written."""


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_only_a_name_in_every_format(name, capsys):
    table = Table(name, ["4"], {name: [PLAIN]})
    lines = formats.markdown([table]).splitlines()
    (row,) = [line for line in lines if line.endswith("| 81.50 |")]
    assert row.replace("&#124;", "").count("|") == 3
    for line in lines[0], row:
        assert not re.search(r"[<\[\]`*]|#(?!\d+;)", line)
    frame = pd.DataFrame([("all_classes", "tiny", name, name, 4, PLAIN)], columns=[*PLACE, "cell"])
    (cell,) = csv.DictReader(io.StringIO(formats.csv(frame)))
    assert cell["label"][0] not in "=+-@"
    assert cell["label"].removeprefix("'") == name
    latex = formats.latex([table])
    assert latex.count("\n") == formats.latex([table._replace(title="t")]).count("\n")
    for cell in re.findall(r"caption\{(.*)\}$|^    (.*) & 81.50 ", latex, re.MULTILINE):
        text = "".join(cell)
        for special in LATEX_SPECIAL:
            text = text.replace(special, "")
        assert not {*text} & {*"&%$#_{}\\~^[]<>|"}
    formats.show([table])
    printed = capsys.readouterr().out
    assert not {*printed} & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}


def test_numbers_below_zero_stay_numbers_in_csv():
    below = PLAIN._replace(published=90.0, source="b")
    frame = pd.DataFrame(
        [("all_classes", "tiny", "digits", "coop", 4, below)], columns=[*PLACE, "cell"]
    )
    (cell,) = csv.DictReader(io.StringIO(formats.csv(frame)))
    assert cell["difference"] == "-8.5"


H = Cell(72.0, 0.5, 3, 70.0, "g", False, False, False, parts={
    "base_accuracy": PLAIN._replace(mean=90.0, interval=1.5),
    "new_accuracy": PLAIN._replace(mean=60.0, published=59.0, source="g"),
})  # fmt: skip
HALVES = Table(
    "digits, tiny, base_to_new, shots=4", ["base", "new", "H"],
    {"coop": [*H.parts.values(), H]}, ("H is the harmonic mean.",), "base_to_new",
)  # fmt: skip


def test_base_new_and_h_in_every_format(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    expected = ["90.00 ± 1.50", "60.00 (+1.00)", "72.00 ± 0.50 (+2.00)"]
    text = formats.markdown([HALVES])
    assert (
        f"| method | base | new | H |\n| --- | --- | --- | --- |\n| coop | {' | '.join(expected)} |"
        in text
    )
    assert "H is the harmonic mean." in text
    latex = formats.latex([HALVES])
    assert " & ".join(["coop", *expected]).replace("±", r"$\pm$") in latex
    assert "H is the harmonic mean." in latex.split(r"\end{tabular}")[1]
    formats.show([HALVES])
    printed = capsys.readouterr().out
    for cell in expected:
        assert cell.replace(" ± ", "±") in printed
    assert "H is the harmonic mean." in printed
    cells = pd.DataFrame(
        [("base_to_new", "tiny", "digits", "coop", 4, H)], columns=[*PLACE, "cell"]
    )
    rows = list(csv.DictReader(io.StringIO(formats.csv(cells))))
    assert [(row["metric"], row["mean"], row["difference"]) for row in rows] == [
        ("harmonic_mean", "72.0", "2.0"), ("base_accuracy", "90.0", ""),
        ("new_accuracy", "60.0", "1.0"),
    ]  # fmt: skip
    assert {(row["protocol"], row["task"], row["shots"]) for row in rows} == {
        ("base_to_new", "digits", "4")
    }
    assert "parts" not in rows[0]


def test_notes_stand_with_the_tables_of_their_protocol(capsys):
    usual = TABLE._replace(title="usual")
    text = formats.markdown([usual, HALVES])
    first, second = text.split("digits, tiny, base_to_new")
    assert "exp.log of the Tip-Adapter repository" in first
    assert "CoCoOp" not in first
    assert "CoCoOp" in second
    assert "exp.log" not in second
    formats.show([usual, HALVES])
    first, second = capsys.readouterr().out.split("digits, tiny, base_to_new")
    assert "CoCoOp" not in first
    assert "CoCoOp" in second
