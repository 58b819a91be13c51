import math
import statistics
from dataclasses import asdict

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from src.results.frame import load
from src.results.summary import by_dataset, by_shots, half_width, once_per_seed, summarise
from tests.results.test_record import made_up


def runs(method, shots, accuracies, task="digits", published=None, **changes):
    by_source = {f"published_by_source.{source}": x for source, x in (published or {}).items()}
    return [
        asdict(made_up(accuracy, method=method, shots=shots, seed=seed, **changes))
        | {"accuracy": accuracy, "task": task, "label": method}
        | by_source
        for seed, accuracy in enumerate(accuracies)
    ]


def frame(*groups):
    return pd.DataFrame([run for group in groups for run in group])


def cell(cells, task, label, shots):
    (found,) = cells.query("task == @task and label == @label and shots == @shots")["cell"]
    return found


def inside_of_student(x, freedom):
    """Integrate the density of Student's t from -x to x."""
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2)
    scale /= math.sqrt(freedom * math.pi)
    density = integrate.quad(lambda t: (1 + t * t / freedom) ** (-(freedom + 1) / 2), -x, x)[0]
    return scale * density


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6).filter(lambda a: max(a) - min(a) > 0.1))
def test_the_interval_holds_95_percent_of_students_t(accuracies):
    error = statistics.stdev(accuracies) / math.sqrt(len(accuracies))
    quantile = half_width(accuracies) / error
    assert inside_of_student(quantile, len(accuracies) - 1) == pytest.approx(0.95, abs=1e-6)


def test_a_single_seed_has_no_interval():
    assert half_width([80.0]) is None


def test_seeds_are_averaged():
    found = cell(
        summarise(frame(runs("tip_adapter", 16, [90.0, 91.0, 95.0]))), "digits", "tip_adapter", 16
    )
    assert (found.mean, found.seeds) == (92.0, 3)
    assert found.interval == pytest.approx(4.302653 * 7**0.5 / 3**0.5, rel=1e-6)
    assert str(found) == "92.00 ± 6.57"


def test_a_method_without_a_draw_counts_once():
    found = cell(
        summarise(frame(runs("zero_shot", 0, [80.0, 80.0, 80.0]))), "digits", "zero_shot", 0
    )
    assert str(found) == "80.00"


def test_methods_keep_the_order_in_which_they_first_appear():
    again = runs("zero_shot", 0, [60.0], started_at="2026-01-02T00:00:00+00:00")
    (table,) = by_shots(
        summarise(frame(runs("zero_shot", 0, [50.0]), runs("coop", 4, [0.0]), again))
    )
    assert list(table.rows) == ["zero_shot", "coop"]
    assert table.rows["zero_shot"][0].mean == 60.0


def test_of_two_runs_of_a_seed_the_later_one_counts():
    later = runs("coop", 4, [70.0], started_at="2026-01-02T00:00:00+00:00")
    found = once_per_seed(frame(later, runs("coop", 4, [60.0, 50.0])))
    assert sorted(found["accuracy"]) == [50.0, 70.0]


def test_the_average_over_datasets_is_taken_seed_by_seed_where_all_datasets_are_there():
    cells = summarise(
        frame(
            runs("coop", 4, [80.0, 90.0]),
            runs("coop", 4, [50.0, 70.0], task="letters"),
            runs("coop", 8, [99.0, 99.0]),
            runs("zero_shot", 0, [60.0]),
            runs("zero_shot", 0, [40.0], task="letters"),
            runs("coop", 4, [0.0, 0.0], task="digits → letters"),
        )
    )
    average = cell(cells, "average of 2 datasets", "coop", 4)
    assert average.mean == 72.5
    assert average.interval == pytest.approx(half_width([65.0, 80.0]))
    assert cell(cells, "average of 2 datasets", "zero_shot", 0).mean == 50.0
    assert len(cells.query("task == 'average of 2 datasets'")) == 2


def test_the_average_has_no_interval_where_datasets_have_other_seeds():
    cells = summarise(frame(runs("coop", 4, [80.0, 90.0]), runs("coop", 4, [50.0], task="letters")))
    average = cell(cells, "average of 2 datasets", "coop", 4)
    assert (average.mean, average.interval) == (67.5, None)


def test_the_difference_to_the_published_accuracy_stands_beside_it():
    cells = summarise(
        frame(
            runs("calip", 0, [38.5], published={"a": 38.9}, selected_on_test=True),
            runs("calip", 0, [60.0], task="dtd", published={"a": 58.0}),
            runs("zero_shot", 0, [37.0], published={"a": 37.5}),
            runs("zero_shot", 0, [40.0], task="dtd"),
        )
    )
    found = cell(cells, "digits", "calip", 0)
    assert found.difference == pytest.approx(-0.4)
    assert str(found) == "38.50† (-0.40)"
    average = cell(cells, "average of 2 datasets", "calip", 0)
    assert average.difference == pytest.approx(49.25 - 48.45)
    assert average.selected_on_test
    assert cell(cells, "average of 2 datasets", "zero_shot", 0).difference is None


def test_differences_are_taken_to_one_source_so_that_published_gains_are_its_own():
    """Caltech101's zero_shot is 85.92 in one source, and 83.94 in that of calip's 87.71."""
    zero_shot = runs("zero_shot", 0, [85.0], published={"b": 85.92, "a": 83.94})
    alone = cell(summarise(frame(zero_shot)), "digits", "zero_shot", 0)
    assert (alone.published, alone.source) == (85.92, "b")
    cells = summarise(frame(zero_shot, runs("calip", 0, [86.0], published={"a": 87.71, "c": 87})))
    both = [cell(cells, "digits", method, 0) for method in ("zero_shot", "calip")]
    assert [one.source for one in both] == ["a", "a"]
    assert both[1].published - both[0].published == pytest.approx(3.77)
    more = summarise(
        frame(
            zero_shot,
            *[runs(f"m{n}", 4, [80.0], published={"b": 79.0}) for n in (1, 2)],
            runs("calip", 0, [86.0], published={"a": 87.71}),
        )
    )
    assert cell(more, "digits", "calip", 0).difference is None


def test_many_seeds_of_one_cell_do_not_choose_the_source_of_the_others():
    cells = summarise(
        frame(
            runs("coop", 4, [60.0, 61.0, 62.0], published={"a": 59.0}),
            *[runs("calip", 0, [50.0], task=task, published={"c": 53.7}) for task in ("v2", "a")],
        )
    )
    assert {one.source for one in cells["cell"]} == {"c"}
    assert cell(cells, "digits", "coop", 4).difference is None


def test_a_partial_test_is_never_averaged_with_whole_ones(tmp_path):
    for seed, partial in enumerate((False, False, True)):
        made = made_up(80.0 + seed, seed=seed, shots=4, partial_test=partial)
        made.write(folder := tmp_path / str(seed))
        (folder / ".hydra").mkdir()
    cells = summarise(load([tmp_path]).frame)
    assert list(cells["label"]) == ["calip", "calip (partial test)"]
    assert [str(one) for one in cells["cell"]] == ["80.50 ± 6.35", "82.00§"]


def test_a_method_without_shots_stands_in_the_table_of_every_number_of_shots():
    cells = summarise(
        frame(
            *[runs("coop", shots, [85.0], task=task) for shots in (1, 4) for task in ("a", "b")],
            *[runs("zero_shot", 0, [80.0], task=task) for task in ("a", "b")],
        )
    )
    one, four = by_dataset(cells)
    for table, shots in ((one, 1), (four, 4)):
        assert f"shots={shots}" in table.title
        assert [str(found) for found in table.rows["zero_shot"]] == ["80.00"] * 3
        assert [str(found) for found in table.rows["coop"]] == ["85.00"] * 3


def test_tables_have_a_column_for_each_of_the_shots_or_of_the_datasets():
    cells = summarise(
        frame(
            runs("coop", 16, [92.0]),
            runs("coop", 2, [85.0]),
            runs("zero_shot", 0, [80.0]),
            runs("coop", 2, [45.0], task="letters"),
        )
    )
    average, digits, letters = by_shots(cells)
    assert digits.columns == ["0", "2", "16"]
    assert [str(found or "") for found in digits.rows["coop"]] == ["", "85.00", "92.00"]
    assert [str(found or "") for found in digits.rows["zero_shot"]] == ["80.00", "", ""]
    assert (letters.columns, average.columns) == (["2"], ["2"])
    two, sixteen = by_dataset(cells)[0], by_dataset(cells)[1:]
    assert sixteen == []
    assert two.title.startswith("tiny, shots=2")
    assert two.columns == ["average of 2 datasets", "digits", "letters"]
    assert [str(found) for found in two.rows["coop"]] == ["65.00", "85.00", "45.00"]
    assert by_dataset(summarise(frame(runs("coop", 2, [85.0])))) == []
