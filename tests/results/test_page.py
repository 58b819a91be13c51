"""The page's content, from made-up runs; what it looks like is `tests/test_report.py`'s."""

import re
from dataclasses import replace

import numpy as np
import pytest

from src.results import page
from src.results.outcome import Outcome
from tests.results.test_record import RESULT


def made_up(folder, classes=5, **changes):
    """A run with its answers, without a search."""
    generator = np.random.default_rng(0)
    label, prediction = generator.integers(classes, size=(2, 300))
    confidence = generator.uniform(0.1, 1, size=300).astype(np.float32)
    names = [f"class <{number}>" for number in range(classes)]
    Outcome(names, label, prediction, confidence).write(folder)
    replace(RESULT, **changes).write(folder)


def test_names_and_commands_are_escaped(tmp_path):
    made_up(tmp_path / "0", dataset="<script>alert(1)</script>", command="python '<b>' && x")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "&lt;b&gt;" in text


def test_every_figure_stands_beside_the_command_and_the_commit(tmp_path):
    for seed, shots in enumerate([1, 2]):
        made_up(
            tmp_path / str(seed), method="coop", shots=shots, command=f"python run {shots}",
            git_revision=f"{shots}234567890abcdef-dirty",
        )  # fmt: skip
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    curve, detail = text.split("<h2>Run by run</h2>")
    for source in ("python run 1", "python run 2", "1234567890ab with uncommitted changes"):
        assert source in curve
    assert "<code>python run 2</code>" in detail.split("<h2>All runs</h2>")[0]
    assert "python run 1" not in detail.split("<h2>All runs</h2>")[0]
    assert text.count("data:image/svg+xml;base64,") == 4
    assert len(list(tmp_path.glob("report/figures/*.svg"))) == 4


def test_of_many_methods_the_best_are_looked_into_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DETAILED", 2)
    for number, accuracy in enumerate([60.0, 50.0, 70.0]):
        made_up(tmp_path / str(number), method=f"method_{number}", accuracy=accuracy)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert re.findall(r"<b>digits, tiny: method_(\d), shots=0</b>", text) == ["0", "2"]
    assert "Of 3, the 2 most accurate" in text


@pytest.mark.parametrize("classes", [2, 200])
def test_any_number_of_classes_is_drawn(tmp_path, classes):
    made_up(tmp_path / "0", classes=classes)
    path = page.write_report([tmp_path], tmp_path / "report")
    figure = tmp_path / "report/figures/digits-tiny-calip-0_shots-class_accuracy.svg"
    assert ("classes between" in figure.read_text()) == (classes == 200)
    assert path.stat().st_size < 500_000


def test_without_answers_there_are_tables_alone(tmp_path):
    RESULT.write(tmp_path / "0")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert "81.50" in text
    assert "<img" not in text


def test_what_was_chosen_on_the_test_split_is_marked_wherever_it_stands(tmp_path):
    for number, shots in enumerate([1, 2]):
        made_up(tmp_path / str(number), shots=shots, selection="test", selected_on_test=True)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert text.count("81.50†") == 2 + 1 + 2  # in the table, above the closer look, in the list
    assert "not comparable" in text
    assert "calip†" in (tmp_path / "report/figures/accuracy-tiny-digits.svg").read_text()
