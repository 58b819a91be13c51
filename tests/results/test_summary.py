from dataclasses import replace

import pytest

from src.results.summary import markdown, show, summarise
from tests.results.test_record import RESULT


def runs(method, shots, accuracies, **changes):
    return [
        replace(RESULT, method=method, shots=shots, seed=seed, accuracy=accuracy, **changes)
        for seed, accuracy in enumerate(accuracies)
    ]


def test_seeds_are_averaged_with_a_student_interval():
    (summary,) = summarise(runs("tip_adapter", 16, [90.0, 91.0, 95.0]))
    cell = summary.cells["tip_adapter", 16]
    assert cell.mean == 92.0
    assert cell.interval == pytest.approx(4.302653 * 7**0.5 / 3**0.5, rel=1e-6)
    assert str(cell) == "92.00 ± 6.57"


def test_a_method_without_a_draw_counts_once():
    (summary,) = summarise(runs("zero_shot", 0, [80.0, 80.0, 80.0]))
    assert str(summary.cells["zero_shot", 0]) == "80.00"


def test_datasets_backbones_and_ways_of_selection_are_kept_apart():
    results = [
        *runs("calip", 0, [80.0], selection="val"),
        *runs("calip", 0, [81.0], selection="test", selected_on_test=True),
        *runs("calip", 0, [50.0], dataset="letters", adapted_on="letters", selection="val"),
        *runs("calip", 0, [30.0], dataset="letters", selection="val"),
    ]
    digits, letters, elsewhere = summarise(results)
    assert elsewhere.title.startswith("letters (adapted on digits), tiny")
    assert digits.methods == ["calip (val)", "calip (test)"]
    assert letters.dataset == "letters"
    text = markdown([digits, letters])
    assert "| calip (test) | 81.00† |" in text
    assert "| calip (val) | 80.00 |" in text
    assert "not comparable" in text


def test_rows_are_methods_and_columns_are_shots_in_order(capsys):
    results = [*runs("tip_adapter", 16, [92.0]), *runs("tip_adapter", 2, [85.0])]
    (summary,) = summarise([*results, *runs("zero_shot", 0, [80.0])])
    assert summary.shots == [0, 2, 16]
    assert "| tip_adapter |  | 85.00 | 92.00 |" in markdown([summary])
    assert "not comparable" not in markdown([summary])
    show([summary])
    printed = capsys.readouterr().out
    assert "digits, tiny" in printed
    assert "92.00" in printed
