from dataclasses import replace

import pytest

from src.results.table import show
from tests.results.test_record import RESULT, made_up

MARKED = {"selected_on_test": True, "saw_test_images": True}


@pytest.fixture
def printed(monkeypatch, capsys):
    """Print runs in a terminal of a certain width, and return the lines."""

    def lines(*results, width=120):
        monkeypatch.setenv("COLUMNS", str(width))
        show(results, "title")
        return capsys.readouterr().out.splitlines()

    return lines


def test_empty_columns_are_left_out_and_shared_conditions_stand_above(printed):
    first, second = made_up(), made_up(method="zero_shot", validation_accuracy=None)
    text = "\n".join(printed(first, second))
    for expected in ("dataset digits", "81.50 ", "99.00", "0.300", "validation"):
        assert expected in text
    for absent in ("†", "‡", "published"):
        assert absent not in text


@pytest.mark.parametrize(
    ("changes", "mark", "meaning"),
    [
        ({"selected_on_test": True}, "81.50†", "† settings chosen on the test split"),
        ({"saw_test_images": True}, "81.50‡", "‡ the method saw the unlabelled test images"),
        (MARKED, "81.50†‡", "‡ the method saw the unlabelled test images"),
    ],
)
def test_what_is_not_comparable_is_marked_and_the_mark_explained(printed, changes, mark, meaning):
    text = "\n".join(printed(made_up(**changes, published=80.0)))
    for expected in (mark, meaning, "published"):
        assert expected in text


def test_metrics_that_a_record_lacks_are_blank(printed):
    lacking = replace(RESULT, metrics={"accuracy": 81.5}, method="calip_fs")
    (line,) = (line for line in printed(RESULT, lacking) if "calip_fs" in line)
    assert line.split() == ["calip_fs", "81.50", "82.00"]
    text = "\n".join(printed(lacking))
    assert "ECE" not in text
    assert "nan" not in text.lower()


@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_narrow_terminal_cuts_nothing(printed, width):
    """Columns that do not fit go into tables below, which repeat the columns that name a row."""
    name, other = "tip_adapter_with_a_long_name", "calip"
    lines = printed(
        made_up(12.34, method=name, shots=16, **MARKED), made_up(56.78, method=other), width=width
    )
    text = "\n".join(lines)
    assert "…" not in text
    for cell in ("12.34†‡", "80.25", "79.00", "99.00", "0.100", "0.700", "0.300", "82.00"):
        assert cell in text
    assert text.count(name) == text.count(other) > 1
    tables = lines[3:-2]
    assert max(len(line.rstrip()) for line in tables) <= max(width, 50)  # the labels and one column


def test_one_run_with_all_its_metrics_fits_into_80_columns(printed):
    text = "\n".join(printed(made_up(method="tip_adapter_f"), width=80))
    assert text.count("tip_adapter_f") == 1
    assert "81.50" in text


def test_brackets_are_shown_as_they_are(printed):
    assert "[red]" in "\n".join(printed(made_up(method="[red]"), made_up(dataset="[b]")))
