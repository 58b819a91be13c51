import pytest

from src.results import formats
from src.results.best import best, of_table
from src.results.summary import ANY
from src.results.summary_tables import Table
from tests.results.test_formats import PLAIN


def cell(*by_seed, **changes):
    """Make a cell of the accuracies for seeds 1, 2, ...; of a single one for all seeds."""
    mean = sum(by_seed) / len(by_seed)
    seeds = dict(enumerate(by_seed, start=1)) if len(by_seed) > 1 else {ANY: by_seed[0]}
    return PLAIN._replace(mean=mean, by_seed=seeds, **changes)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ({"a": cell(80, 81, 82), "b": cell(70, 71, 72)}, {"a"}),
        # Pairs of seeds count: b is always a little worse, though the intervals overlap.
        ({"a": cell(70, 80, 90), "b": cell(69, 78.9, 89.1)}, {"a"}),
        ({"a": cell(80, 81, 82), "b": cell(81, 79, 82)}, {"a", "b"}),
        ({"a": cell(80, 81, 82), "zero": cell(80.5), "low": cell(60)}, {"a", "zero"}),
        ({"zero": cell(90), "a": cell(80, 81, 82), "b": cell(85, 95, 88)}, {"zero", "b"}),
        ({"a": cell(80), "b": cell(70)}, set()),
        ({"a": cell(80, 81, 82)}, set()),
        ({}, set()),
    ],
)
def test_the_best_are_those_that_the_seeds_cannot_tell_from_the_highest(column, expected):
    assert best(column) == expected


@pytest.mark.parametrize("why", ["selected_on_test", "partial_test"])
def test_what_is_not_comparable_is_never_the_best(why):
    column = {"a": cell(90, 91, 92, **{why: True}), "b": cell(80, 81, 82), "c": cell(60, 62, 61)}
    assert best(column) == {"b"}


def test_the_best_are_bold_in_every_table_that_can_be_bold(capsys):
    rows = {"a": [cell(80, 81, 82), None], "b": [cell(70, 71, 72), cell(1)]}
    table = Table("t", ["4", "16"], rows)
    assert of_table(table) == {"a": [True, False], "b": [False, False]}
    markdown = formats.markdown([table])
    assert "| a | **81.00** |  |" in markdown
    assert "| b | 71.00 | 1.00 |" in markdown
    assert "Bold: the highest of a column" in markdown
    latex = formats.latex([table])
    assert r"a & \textbf{81.00} &  \\" in latex
    assert "Bold: the highest" in latex
    formats.show([table])
    assert "Bold" not in capsys.readouterr().out
