import csv
import io

import pytest

from src.results import comparison_tables as tables
from src.results import names
from src.results.comparison import compare
from tests.results.test_comparison import each, scored


@pytest.fixture(autouse=True)
def without_titles(monkeypatch):
    """Leave methods their names here: how they are titled is tested in `test_names.py`."""
    monkeypatch.setattr(names, "_about", dict)


def one(**of_methods):
    (found,) = compare(scored(**of_methods))
    return found


def rising(first, count):
    return each(*[first + n + n / 10 for n in range(count)])


@pytest.mark.parametrize(
    ("count", "note"), [(2, "4 more datasets are needed"), (5, "1 more dataset is needed")]
)
def test_below_six_datasets_it_is_said_how_many_more_are_needed_and_there_is_no_p(count, note):
    found = one(coop=rising(50.0, count), gda=rising(60.0, count))
    assert note in " ".join(tables.notes(found))
    (row,) = tables.pairs(found).rows
    assert list(row) == ["methods", "mean", "won, tied, lost", *"abcde"[:count]]
    assert (row["methods"], row["mean"], row["a"]) == ("gda − coop", "+10.00", "+10.00")
    assert row["won, tied, lost"] == f"{count}/0/0"


def test_with_enough_datasets_each_pair_has_p_before_and_after_correction():
    found = one(coop=rising(50.0, 8), gda=rising(60.0, 8), clap=rising(70.0, 8))
    assert tables.notes(found) == []
    rows = tables.pairs(found).rows
    assert tables.pairs(found).title == "3 pairs"
    assert [row["methods"] for row in rows] == ["clap − gda", "clap − coop", "gda − coop"]
    assert [(row["p"], row["p (Holm)"]) for row in rows] == [("0.008", "0.023")] * 3
    assert "with Holm's correction for 3 pairs, p ≥ 0.05" in tables.caption(found)


def test_where_the_correction_leaves_no_p_below_the_level_it_is_said():
    found = one(coop=rising(50.0, 6), gda=rising(60.0, 6), clap=rising(70.0, 6))
    (note,) = tables.notes(found)
    assert "On fewer than 7 datasets, Holm's correction for 3 pairs leaves no p below 0.05" in note
    assert "No methods are joined" in tables.caption(found)
    assert "A bar" not in tables.caption(found)


def test_on_one_dataset_there_is_the_difference_over_the_seeds_and_nothing_else():
    found = one(coop={"a": {1: 50.0, 2: 52.0}}, gda={"a": {1: 51.0, 2: 55.0}})
    assert tables.pairs(found).title == "1 pair"
    assert tables.pairs(found).rows == [{"methods": "gda − coop", "a": "+2.00 ± 12.71"}]
    assert tables.ranks(found).rows == []


def test_ranks_are_a_table():
    found = one(coop=rising(50.0, 2), gda=each(60.0, 0.0))
    assert tables.ranks(found).rows == [
        {"method": "coop", "average rank": "1.50"}, {"method": "gda", "average rank": "1.50"},
    ]  # fmt: skip
    assert tables.ranks(found).title == "Average ranks on 2 datasets"


def test_who_is_left_out_is_named():
    found = one(coop=rising(50.0, 2), gda=rising(60.0, 2), clap=rising(70.0, 1))
    assert tables.notes(found)[-1] == "Left out: clap (not run on b)."


def test_a_pair_without_a_common_seed_on_a_dataset_has_an_empty_cell_there():
    coop, gda = {"a": {1: 5.0}, "b": {1: 5.0}}, {"a": {1: 6.0}, "b": {2: 6.0}}
    (row,) = tables.pairs(one(coop=coop, gda=gda)).rows
    assert (row["a"], row["b"]) == ("+1.00", "")


def test_csv_has_a_line_for_all_datasets_and_one_for_each():
    found = one(coop=rising(50.0, 6), gda=each(*[70.0] * 6, seeds=(1, 2)))
    rows = list(csv.DictReader(io.StringIO(tables.csv([found]))))
    assert tuple(rows[0]) == tables.COLUMNS
    assert [row["dataset"] for row in rows] == ["", *"abcdef"]
    assert {(row["first"], row["second"], row["shots"]) for row in rows} == {("gda", "coop", "4")}
    assert [float(rows[0][name]) for name in ("wins", "ties", "losses", "p")] == [6, 0, 0, 0.03125]
    assert float(rows[1]["difference"]) == 20.0
    assert (rows[1]["p"], rows[0]["seeds"]) == ("", "")


def test_csv_of_no_comparison_has_its_columns():
    assert tables.csv([]).strip() == ",".join(tables.COLUMNS)
