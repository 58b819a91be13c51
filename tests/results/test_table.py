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


def test_figures_of_sets_are_shown_where_a_run_has_sets(printed):
    of_sets = {"coverage": 91.0, "mean_set_size": 1.5, "class_coverage_gap": 7.125}
    with_sets = replace(RESULT, metrics={**RESULT.metrics, **of_sets})
    text = "\n".join(printed(RESULT, with_sets))
    for expected in ("coverage", "91.00", "size", "1.50", "gap", "7.12"):
        assert expected in text
    assert "coverage" not in "\n".join(printed(RESULT))


@pytest.mark.parametrize(
    ("changes", "mark", "meaning"),
    [
        ({"selected_on_test": True}, "81.50†", "† settings chosen on the test split"),
        ({"saw_test_images": True}, "81.50‡", "‡ the method saw the unlabelled test images"),
        ({"selection": "validation_free"}, "81.50¶", "¶ validation-free: one setting"),
        ({"partial_test": True}, "81.50§", "§ tested on a part of the test split"),
        (MARKED, "81.50†‡", "‡ the method saw the unlabelled test images"),
    ],
)
def test_what_is_not_comparable_is_marked_and_the_mark_explained(printed, changes, mark, meaning):
    text = "\n".join(printed(made_up(**changes)))
    assert mark in text
    assert meaning in text


def test_published_accuracies_of_one_table_have_one_source(printed):
    """Caltech101: the log with zero_shot's 85.92 has no calip; the notebook has both."""
    zero_shot = made_up(method="zero_shot", published_by_source={"b": 85.92, "a": 83.94})
    calip = made_up(published_by_source={"a": 87.71})
    text = "\n".join(printed(zero_shot, calip))
    assert "83.94" in text
    assert "87.71" in text
    assert "85.92" not in text
    assert "published: APE_results.ipynb" in text
    alone = "\n".join(printed(zero_shot))
    assert "85.92" in alone
    assert "published: exp.log of the Tip-Adapter repository" in alone


def test_rows_of_an_ablation_carry_what_tells_them_apart(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    labels = ["calip (beta2=0.5)", "calip (beta2=2.0)"]
    show([made_up(), made_up()], "title", labels)
    printed = capsys.readouterr().out
    for label in labels:
        assert label in printed


def test_without_a_terminal_a_table_is_as_wide_as_it_needs(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "tip_adapter_with_a_long_name" * 5
    show([made_up(method=name), made_up()], "title")
    printed = capsys.readouterr().out
    (row,) = (line for line in printed.splitlines() if name in line)
    assert "0.300" in row
    assert "…" not in printed


def test_metrics_that_a_record_lacks_are_blank(printed):
    lacking = replace(RESULT, metrics={"accuracy": 81.5}, method="calip_fs")
    (line,) = (line for line in printed(RESULT, lacking) if "calip_fs" in line)
    assert line.split() == ["calip_fs", "81.50", "82.00"]
    text = "\n".join(printed(lacking))
    assert "ECE" not in text
    assert "nan" not in text.lower()


@pytest.mark.parametrize(("width", "times"), [(40, 1), (80, 2), (100, 1)])
def test_a_narrow_terminal_cuts_nothing(printed, width, times):
    """Columns that do not fit go into tables below, or the runs become blocks of lines."""
    name, other = "tip_adapter_with_a_long_name", "calip"
    lines = printed(
        made_up(12.34, method=name, shots=16, **MARKED), made_up(56.78, method=other), width=width
    )
    text = "\n".join(lines)
    assert "…" not in text
    for cell in ("12.34†‡", "80.25", "79.00", "99.00", "0.100", "0.700", "0.300", "82.00"):
        assert cell in text
    assert text.count(name) == text.count(other) == times
    explained = next(number for number, line in enumerate(lines) if line.startswith("†"))
    assert max(len(line.rstrip()) for line in lines[3:explained]) <= width


def test_one_run_with_all_its_metrics_fits_into_80_columns(printed):
    text = "\n".join(printed(made_up(method="tip_adapter_f"), width=80))
    assert text.count("tip_adapter_f") == 1
    assert "81.50" in text


def test_brackets_are_shown_as_they_are(printed):
    assert "[red]" in "\n".join(printed(made_up(method="[red]"), made_up(dataset="[b]")))


def on_halves(base, new, **changes):
    h = 2 * base * new / (base + new)
    found = {"base_accuracy": base, "new_accuracy": new, "harmonic_mean": h}
    metrics = {**RESULT.metrics, "accuracy": base, **found}
    return replace(RESULT, metrics=metrics, protocol="base_to_new", **changes)


def test_base_new_and_h_come_first_and_base_stands_there_once(printed):
    lines = printed(on_halves(90.5, 60.25, selected_on_test=True))
    text = "\n".join(lines)
    assert "protocol base_to_new" in text
    (row,) = (line for line in lines if "90.50" in line)
    assert row.split() == ["calip", "90.50", "60.25", "72.34†", *row.split()[4:]]
    assert row.count("90.50") == 1
    assert "All metrics but new and H are of the base classes" in text
    assert "† settings chosen on the test split" in text


def test_published_base_new_and_h_have_a_column_each(printed):
    coop = on_halves(
        80.0, 50.0, method="coop", dataset="dtd", shots=16, backbone="vit_b16",
        weights="ViT-B-16-quickgelu/openai",
    )  # fmt: skip
    text = "\n".join(printed(coop, width=200))
    for expected in ("published", "79.44", "41.18", "54.24", "CoCoOp"):
        assert expected in text


def test_imbalanced_runs_have_the_mean_accuracy_of_the_classes_first(printed):
    lines = printed(replace(RESULT, protocol="imbalanced_relaxed", saw_test_images=True))
    (row,) = (line for line in lines if "81.50" in line)
    assert row.split()[:3] == ["calip", "80.25‡", "81.50"]
    assert "protocol imbalanced_relaxed" in "\n".join(lines)
    assert any("‡ the method saw" in line for line in lines)


def test_runs_of_different_protocols_stand_in_tables_of_their_own_which_say_so(printed):
    lines = printed(made_up(70.0), on_halves(90.0, 60.0), made_up(71.0, seed=1))
    above = [line.partition("  ")[0].strip() for line in lines if line.startswith("protocol")]
    assert above == ["protocol all_classes", "protocol base_to_new"]
    first, second = "\n".join(lines).split("protocol base_to_new")
    assert "70.00" in first
    assert "71.00" in first
    assert "90.00" not in first
    assert "90.00" in second
    assert "protocol" not in "\n".join(printed(made_up(), made_up(seed=1)))
