import math
import statistics
from dataclasses import asdict

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from src.results import formats
from src.results.frame import load
from src.results.summary import compared, half_width, once_per_seed, summarise
from src.results.summary_tables import by_dataset, by_shots
from tests.results.test_record import made_up


def runs(method, shots, accuracies, task="digits", published=None, **changes):
    by_source = {f"published_by_source.{source}": x for source, x in (published or {}).items()}
    return [
        asdict(made_up(accuracy, method=method, shots=shots, seed=seed, **changes))
        | {"accuracy": accuracy, "task": task, "label": method, "balance": ""}
        | by_source
        for seed, accuracy in enumerate(accuracies)
    ]


def halves(pairs, task="digits", label="coop", shots=4, published=None, **changes):
    """Runs on base and new classes, a seed for each pair."""
    figures = {
        f"published_{part}by_source.g": value
        for part, value in zip(("", "new_"), published or (), strict=False)
    }
    return [
        one | {"base_accuracy": base, "new_accuracy": new} | figures
        | {"harmonic_mean": 2 * base * new / (base + new) if base + new else 0.0}
        for one, (base, new) in zip(
            runs(
                label, shots, [base for base, _ in pairs], task, protocol="base_to_new", **changes
            ),
            pairs,
            strict=True,
        )
    ]  # fmt: skip


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


OTHERS = [
    {"protocol": name}
    for name in (
        "base_to_new", "cross_dataset", "shift", "imbalanced_relaxed", "imbalanced_realistic",
        "of_tomorrow",
    )
]  # fmt: skip


def with_all_metrics(found):
    names = ("mean_class_accuracy", "base_accuracy", "new_accuracy", "harmonic_mean")
    return found.assign(**dict.fromkeys(names, found["accuracy"]))


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_runs_of_different_protocols_share_no_cell_no_row_and_no_table(changes):
    usual = [runs("coop", 4, [80.0, 82.0], task=task) for task in ("digits", "letters")]
    other = [runs("coop", 4, [20.0, 22.0], task=task, **changes) for task in ("digits", "letters")]
    alone = summarise(frame(*usual))
    cells = summarise(with_all_metrics(frame(*usual, *other)))
    assert set(cells["protocol"]) == {"all_classes", changes["protocol"]}
    for (protocol, *_), group in cells.groupby(["protocol", "task", "label", "shots"]):
        assert len(group) == 1
        assert group["cell"].iloc[0].mean == (81.0 if protocol == "all_classes" else 21.0)
    tables = [*by_dataset(cells), *by_shots(cells)]
    assert [one for one in tables if one.protocol == "all_classes"] == [
        *by_dataset(alone), *by_shots(alone)
    ]  # fmt: skip
    for table in tables:
        means = {cell.mean for row in table.rows.values() for cell in row if cell}
        assert len(means) == 1
        assert (changes["protocol"] in table.title) == (means == {21.0})


def test_base_new_and_h_of_a_dataset_stand_in_one_table():
    pairs = [(80.0, 60.0), (90.0, 50.0), (85.0, 70.0)]
    cells = summarise(frame(halves(pairs), halves([(70.0, 75.0)], label="zero_shot", shots=0)))
    (table,) = by_shots(cells)
    assert by_dataset(cells) == []
    assert table.title == "digits, tiny, base_to_new, shots=4: top-1 accuracy in %"
    assert table.columns == ["base", "new", "H"]
    base, new, h = table.rows["coop"]
    assert (base.mean, new.mean, h.seeds) == (85.0, 60.0, 3)
    assert base.interval == pytest.approx(half_width([80, 90, 85]))
    assert new.interval == pytest.approx(half_width([60, 50, 70]))
    assert h.mean == pytest.approx(2 * 85 * 60 / (85 + 60))
    assert h.interval == pytest.approx(half_width([2 * b * n / (b + n) for b, n in pairs]))
    assert [str(cell) for cell in table.rows["zero_shot"]] == ["70.00", "75.00", "72.41"]
    (note,) = table.notes
    assert "harmonic mean" in note


def test_the_average_h_is_that_of_the_averages():
    digits, letters = [(90.0, 10.0), (80.0, 20.0)], [(30.0, 70.0), (20.0, 80.0)]
    cells = summarise(frame(halves(digits), halves(letters, "letters")))
    average = by_shots(cells)[0]
    assert average.title.startswith("average of 2 datasets, tiny, base_to_new, shots=4")
    base, new, h = average.rows["coop"]
    assert (base.mean, new.mean) == (55.0, 45.0)
    assert h.mean == pytest.approx(2 * 55 * 45 / 100)
    of_datasets = [cell(cells, task, "coop", 4).mean for task in ("digits", "letters")]
    assert h.mean > statistics.mean(of_datasets) + 10
    of_seeds = [2 * 60 * 40 / 100, 2 * 50 * 50 / 100]
    assert h.interval == pytest.approx(half_width(of_seeds))


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=2),
        min_size=1,
        max_size=3,
    )
)
def test_averages_of_base_and_new_are_those_of_plain_sums(by_dataset_and_seed):
    cells = summarise(
        frame(*[halves(pairs, f"d{n}") for n, pairs in enumerate(by_dataset_and_seed)])
    )
    found = cells["cell"].iloc[-1]
    n = 2 * len(by_dataset_and_seed)
    base, new = (
        sum(p[half] for pairs in by_dataset_and_seed for p in pairs) / n for half in (0, 1)
    )
    assert [one.mean for one in found.parts.values()] == pytest.approx([base, new])
    assert found.mean == pytest.approx(2 * base * new / (base + new) if base + new else 0.0)


def test_what_was_published_of_base_and_new_stands_beside_each_and_their_h():
    cells = summarise(
        frame(
            halves([(80.0, 60.0)], published=(79.44, 41.18)),
            halves([(80.0, 60.0)], "letters", published=(60.56, 58.82)),
            halves([(70.0, 70.0)], label="gda"),
        )
    )
    base, new, h = by_shots(cells)[1].rows["coop"]
    assert [one.published for one in (base, new)] == [79.44, 41.18]
    assert h.published == pytest.approx(54.24, abs=0.005)
    assert h.source == base.source == "g"
    assert str(h) == f"68.57 ({h.mean - h.published:+.2f})"
    average = cell(cells, "average of 2 datasets", "coop", 4)
    assert average.published == pytest.approx(2 * 70 * 50 / 120)
    assert cell(cells, "digits", "gda", 4).published is None


def test_sources_are_chosen_for_each_protocol_by_itself():
    usual = [runs(f"m{n}", 4, [80.0], published={"b": 79.0}) for n in range(3)]
    cells = summarise(frame(*usual, halves([(80.0, 60.0)], published=(79.0, 41.0))))
    sources = {row.protocol: row.cell.source for row in cells.itertuples()}
    assert sources == {"all_classes": "b", "base_to_new": "g"}


def elsewhere(accuracies, protocol="cross_dataset", method="coop", shots=4, source="a"):
    return [
        one
        for dataset, of_seeds in accuracies.items()
        for one in runs(
            method, shots, of_seeds, source if dataset == source else f"{source} → {dataset}",
            protocol=protocol, adapted_on=source, dataset=dataset,
        )
    ]  # fmt: skip


@pytest.mark.parametrize("protocol", ["cross_dataset", "shift"])
def test_targets_have_a_column_each_and_their_average_is_without_the_source(protocol):
    cells = summarise(
        frame(
            elsewhere({"a": [90.0, 92.0], "b": [50.0, 60.0], "c": [70.0, 72.0]}, protocol),
            elsewhere({"a": [80.0], "b": [40.0]}, protocol, "gda"),
            elsewhere({"a": [70.0], "b": [30.0], "c": [50.0]}, protocol, "zero_shot", 0),
        )
    )
    (table,) = by_shots(cells)
    assert by_dataset(cells) == []
    assert table.title == (
        f"tiny, {protocol}, adapted to a, shots=4: top-1 accuracy in % by dataset"
    )
    assert table.columns == ["average of 2 datasets", "a", "b", "c"]
    average = table.rows["coop"][0]
    assert average.mean == 63.0
    assert average.interval == pytest.approx(half_width([60.0, 66.0]))
    assert [one.mean for one in table.rows["coop"][1:]] == [91.0, 55.0, 71.0]
    assert [str(one or "") for one in table.rows["gda"]] == ["", "80.00", "40.00", ""]
    assert [str(one) for one in table.rows["zero_shot"]] == ["40.00", "70.00", "30.00", "50.00"]
    assert "beside the one adapted to" in table.notes[0]


def test_each_source_has_a_table_and_an_average_of_its_own():
    cells = summarise(
        frame(
            elsewhere({"a": [90.0], "b": [50.0], "c": [60.0]}),
            elsewhere({"b": [80.0], "a": [30.0]}, source="b"),
        )
    )
    of_a, of_b = by_shots(cells)
    assert (of_a.columns, of_a.rows["coop"][0].mean) == (
        ["average of 2 datasets", "a", "b", "c"],
        55,
    )
    assert (of_b.columns, of_b.notes) == (["b", "a"], ())


def test_imbalanced_runs_are_averaged_by_the_mean_accuracy_of_the_classes():
    found = frame(
        runs("coop", 4, [90.0, 92.0], protocol="imbalanced_relaxed", zero_shot=50.0),
        runs("coop", 4, [80.0], task="letters", protocol="imbalanced_relaxed"),
    ).assign(mean_class_accuracy=[60.0, 64.0, 70.0])
    assert list(compared(found)) == [60.0, 64.0, 70.0]
    cells = summarise(found)
    assert str(cell(cells, "digits", "coop", 4)) == f"62.00 ± {half_width([60, 64]):.2f}"
    assert cell(cells, "average of 2 datasets", "coop", 4).mean == 66.0
    titles = [table.title for table in by_shots(cells)]
    assert titles[1] == "digits, tiny, imbalanced_relaxed: mean class accuracy in % by shots"


def test_runs_whose_record_lacks_what_counts_have_no_cell():
    lacking = runs("coop", 4, [90.0], protocol="imbalanced_relaxed")
    assert summarise(frame(lacking)).empty
    assert by_shots(summarise(frame(lacking))) == by_dataset(summarise(frame(lacking))) == []
    whole = halves([(80.0, 60.0), (math.nan, 50.0)])
    assert cell(summarise(frame(whole)), "digits", "coop", 4).seeds == 1


def test_seeds_of_a_method_that_draws_orders_are_averaged_and_its_balance_is_told():
    seen = {"saw_test_images": True, "zero_shot": 60.0}
    rows = runs("tda", 0, [50.0, 70.0], passes=10, **seen)
    rows += runs("tda", 0, [80.0], task="letters", passes=10, **seen)
    rows += runs("transclip", 0, [65.0, 65.0], **seen)
    found = frame(rows, runs("zero_shot", 0, [60.0]))
    found["balance"] = ["4 to 30", "4 to 30", "30", "4 to 30", "4 to 30", ""]
    cells = summarise(found)
    tda = cell(cells, "digits", "tda", 0)
    assert (tda.mean, tda.seeds, tda.balance) == (60.0, 2, "digits 4 to 30")
    assert cell(cells, "digits", "transclip", 0).seeds == 1
    assert cell(cells, "digits", "zero_shot", 0).balance == ""
    assert cell(cells, "average of 2 datasets", "tda", 0).balance == "digits 4 to 30; letters 30"
    text = formats.markdown(by_shots(cells))
    assert "Images per class among those that ‡ saw together: digits 4 to 30; letters 30." in text
    assert "60.00**‡" in text
    assert "&#91;60.00&#93;" in text
