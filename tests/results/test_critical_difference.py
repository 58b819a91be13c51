import numpy as np
import pytest
from scipy.stats import f, friedmanchisquare, rankdata
from scipy.stats import studentized_range as scipys

from src.results.critical_difference import friedman, nemenyi, studentized_range


def test_they_are_those_of_demsars_example():
    """Demšar (JMLR 7, 2006), section 3.2.3: four methods on fourteen datasets."""
    ranks = [3.143, 2.000, 2.893, 1.964]
    assert nemenyi(4, 14) == pytest.approx(1.25, abs=0.005)
    assert friedman(ranks, 14) == pytest.approx(f.sf(3.69, 3, 39), abs=2e-4)


@pytest.mark.parametrize("count", [2, 3, 10, 36])
def test_the_range_of_normal_variables_is_scipys(count):
    expected = scipys.ppf(0.95, count, np.inf)
    assert studentized_range(count) == pytest.approx(expected, abs=1e-4)


def test_friedmans_statistic_is_scipys_corrected_by_iman_and_davenport():
    scores = np.random.default_rng(0).normal(size=(9, 5)) + np.arange(5) / 3
    chi_square, _ = friedmanchisquare(*scores.T)
    statistic = 8 * chi_square / (9 * 4 - chi_square)
    ranks = rankdata(-scores, axis=1).mean(axis=0)
    assert friedman(list(ranks), 9) == pytest.approx(f.sf(statistic, 4, 32))


def test_the_same_order_everywhere_and_no_order_at_all():
    assert friedman([1, 2, 3], 6) == 0
    assert friedman([2, 2, 2], 6) == 1
