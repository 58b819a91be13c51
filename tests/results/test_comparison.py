import itertools
import math
import statistics
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon

from src.results.comparison import (
    LEVEL,
    average_ranks,
    common_datasets,
    compare,
    holm,
    needed,
    neighbours,
    signed_rank,
)
from src.results.summary import half_width
from tests.results.test_record import made_up


def scored(**of_methods):
    """Make the frame of some runs, each method's accuracies by dataset and seed."""
    return pd.DataFrame([
        run(method, accuracy, dataset, seed)
        for method, by_dataset in of_methods.items()
        for dataset, by_seed in by_dataset.items()
        for seed, accuracy in by_seed.items()
    ])  # fmt: skip


def run(method, accuracy, dataset, seed=1, adapted_on=None, label=None, **changes):
    adapted_on = adapted_on or dataset
    task = dataset if adapted_on == dataset else f"{adapted_on} → {dataset}"
    changes = {"shots": 0 if method.startswith("zero") else 4} | changes
    made = made_up(
        accuracy, method=method, dataset=dataset, adapted_on=adapted_on, seed=seed, **changes
    )
    own = {"label": label or method, "task": task, "validation_free": made.validation_free}
    return asdict(made) | {"accuracy": accuracy} | own


def each(*accuracies, seeds=(1,)):
    """Give accuracies to datasets a, b, c, ...: the same for each seed."""
    names = "abcdefghijklmnop"
    return {names[n]: dict.fromkeys(seeds, value) for n, value in enumerate(accuracies)}


differences = st.lists(st.integers(-4, 4).map(lambda one: one / 4), min_size=6, max_size=9)


@given(differences)
def test_p_is_that_of_all_signs_that_the_differences_could_have_had(found):
    """Ties share their ranks, and zeros are left out."""
    given_ = [one for one in found if one]
    ranks = rankdata(np.abs(given_)) if given_ else []
    observed = sum(rank for rank, one in zip(ranks, given_, strict=True) if one > 0)
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product([False, True], repeat=len(given_))
    ]
    below = sum(one <= observed for one in sums) / len(sums)
    above = sum(one >= observed for one in sums) / len(sums)
    assert signed_rank(found) == pytest.approx(min(1.0, 2 * min(below, above)))


@given(st.lists(st.floats(-50, 50).filter(bool), min_size=6, max_size=40, unique_by=abs))
def test_p_is_scipys_where_that_is_exact(found):
    expected = wilcoxon(found, method="exact").pvalue
    assert signed_rank(found) == pytest.approx(expected, rel=1e-9)


def test_fewer_datasets_than_can_show_a_difference_have_no_p():
    assert signed_rank([1.0] * 5) is None
    assert signed_rank([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 2 / 2**6 < LEVEL


@pytest.mark.parametrize("pairs", [1, 3, 10, 45, 378])
def test_so_many_datasets_are_needed_that_the_least_p_can_be_below_the_level(pairs):
    n = needed(pairs)
    assert pairs * 2 / 2**n < LEVEL <= pairs * 2 / 2 ** (n - 1)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holms_correction_rejects_what_his_procedure_rejects(p):
    corrected = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, number in enumerate(sorted(range(len(p)), key=lambda n: p[n])):
            if (len(p) - step) * p[number] >= level:
                break
            rejected.add(number)
        assert {number for number, one in enumerate(corrected) if one < level} == rejected
    assert all(1 >= one >= before for one, before in zip(corrected, p, strict=True))


@given(st.integers(2, 5), st.integers(1, 4), st.randoms(use_true_random=False))
def test_average_ranks_are_those_of_counting(methods, datasets, random):
    scores = {
        f"m{m}": {f"d{d}": {1: float(random.randrange(3)), 2: 1.0} for d in range(datasets)}
        for m in range(methods)
    }
    expected = {}
    for name, own in scores.items():
        ranks = []
        for dataset in own:
            better = sum(one[dataset][1] > own[dataset][1] for one in scores.values())
            equal = sum(one[dataset][1] == own[dataset][1] for one in scores.values())
            ranks.append(1 + better + (equal - 1) / 2)
        expected[name] = statistics.mean(ranks)
    ranks, ranked = average_ranks(scores)
    assert ranks == pytest.approx(expected)
    assert ranked == datasets
    assert list(ranks.values()) == sorted(ranks.values())
    assert sum(ranks.values()) == pytest.approx(methods * (methods + 1) / 2)


@given(st.integers(0, 6), st.data())
def test_joined_are_the_longest_runs_of_neighbours_without_a_difference(n, data):
    order = [f"m{number}" for number in range(n)]
    pairs = [frozenset(pair) for pair in itertools.combinations(order, 2)]
    differ = {pair for pair in pairs if data.draw(st.booleans())}
    alike = [
        order[start:end]
        for start, end in itertools.combinations(range(n + 1), 2)
        if end - start > 1
        and not any(frozenset(p) in differ for p in itertools.combinations(order[start:end], 2))
    ]
    longest = [one for one in alike if not any(set(one) < set(other) for other in alike)]
    assert neighbours(order, differ) == longest


@pytest.mark.parametrize(
    ("of_methods", "expected"),
    [
        (["abc", "abc", "ab"], "abc"),
        (["ab", "ab", "abc"], "ab"),  # that one method has another dataset is no obstacle
        (["abc", "ab", "a"], "ab"),
        (["abc", "abc", "ab", "ab"], "abc"),
        (["a", "b"], ""),
        (["a"], ""),
        ([], ""),
    ],
)
def test_methods_are_compared_on_the_datasets_that_most_were_run_on(of_methods, expected):
    assert common_datasets([set(one) for one in of_methods]) == set(expected)


def test_a_pair_is_compared_on_the_seeds_that_both_have():
    (found,) = compare(
        scored(
            coop={"a": {1: 80.0, 2: 90.0, 3: 10.0}, "b": {1: 50.0}},
            gda={"a": {1: 82.0, 2: 95.0, 4: 0.0}, "b": {1: 40.0}},
        )
    )
    (pair,) = found.pairs
    assert {pair.first, pair.second} == {"coop", "gda"}
    sign = 1 if pair.first == "gda" else -1
    a, b = pair.differences["a"], pair.differences["b"]
    assert (sign * a.mean, a.seeds) == (3.5, 2)
    assert a.interval == pytest.approx(half_width([2.0, 5.0]))
    assert (sign * b.mean, b.interval, b.seeds) == (-10.0, None, 1)
    assert sign * pair.mean == -3.25
    assert pair.outcomes == (1, 0, 1)
    assert (pair.p, pair.corrected) == (None, None)
    assert found.ranks == {"coop": 1.5, "gda": 1.5}


def test_a_method_that_sees_no_image_is_compared_with_every_seed():
    (found,) = compare(
        scored(zero_shot={"a": {7: 70.0}}, coop={"a": {1: 80.0, 2: 90.0}}).assign(shots=[0, 4, 4])
    )
    (pair,) = found.pairs
    assert (pair.first, pair.second) == ("coop", "zero_shot")
    assert pair.differences["a"].mean == 15.0
    assert pair.differences["a"].interval == pytest.approx(half_width([10.0, 20.0]))
    assert found.title == "tiny, shots=4"


def test_one_run_of_each_method_on_one_dataset_says_nothing():
    assert compare(scored(coop=each(80.0), gda=each(81.0))) == []
    assert compare(scored(coop=each(80.0, 81.0))) == []
    assert compare(scored(coop=each(80.0), gda={"b": {1: 80.0}})) == []
    assert compare(scored(coop={"a": {1: 80.0}}, gda={"a": {2: 80.0}})) == []


def test_clear_differences_on_enough_datasets_are_found_and_split_the_picture():
    low, high = each(*range(50, 60)), each(*[one + 5 + one / 100 for one in range(50, 60)])
    near = {
        name: {1: one[1] + (0.5 if n % 2 else -0.6)} for n, (name, one) in enumerate(high.items())
    }
    (found,) = compare(scored(coop=low, gda=high, clap=near))
    assert list(found.ranks)[-1] == "coop"
    by_names = {frozenset((one.first, one.second)): one for one in found.pairs}
    least = 2 / 2**10
    assert by_names[frozenset(("coop", "gda"))].p == pytest.approx(least)
    assert by_names[frozenset(("coop", "gda"))].corrected == pytest.approx(3 * least)
    assert by_names[frozenset(("gda", "clap"))].corrected > LEVEL
    assert found.groups == [list(found.ranks)[:2]]


def test_equal_accuracies_everywhere_are_ties_and_no_difference():
    methods = {name: each(*[50.0] * 8, seeds=(1, 2)) for name in ("coop", "gda", "clap")}
    (found,) = compare(scored(**methods))
    assert found.ranks == dict.fromkeys(methods, 2.0)
    for pair in found.pairs:
        assert (pair.p, pair.corrected, pair.outcomes, pair.mean) == (1.0, 1.0, (0, 8, 0), 0.0)
        assert {one.interval for one in pair.differences.values()} == {0.0}
    assert found.groups == [["coop", "gda", "clap"]]


def test_what_rounding_leaves_of_equal_accuracies_is_a_tie():
    """0.1 + 0.2 is not 0.3."""
    (found,) = compare(
        scored(
            coop={"a": {1: 0.1, 2: 0.2}, "b": {1: 5.0}}, gda={"a": {1: 0.0, 2: 0.3}, "b": {1: 4}}
        )
    )
    assert found.pairs[0].outcomes in ((1, 1, 0), (0, 1, 1))
    assert found.ranks == {"coop": 1.25, "gda": 1.75}


def test_too_few_datasets_for_so_many_pairs_join_nothing():
    methods = {f"m{n}": each(*[50.0 + n + d for d in range(6)]) for n in range(3)}
    (found,) = compare(scored(**methods))
    assert [pair.p for pair in found.pairs] == [2 / 2**6] * 3
    assert min(pair.corrected for pair in found.pairs) > LEVEL
    assert found.groups == []
    (two,) = compare(scored(m0=methods["m0"], m1=methods["m1"]))
    assert (two.pairs[0].corrected, two.groups) == (2 / 2**6, [])


@pytest.mark.parametrize(
    "changes", [{"selected_on_test": True, "selection": "test"}, {"partial_test": True}]
)
def test_what_is_not_comparable_is_not_compared(changes):
    methods = {name: each(80.0, 70.0 + n) for n, name in enumerate(("coop", "gda", "clap"))}
    frame = scored(**methods)
    marked = pd.DataFrame([run("clap", 99.0, "a", **changes)])
    (found,) = compare(
        pd.concat([frame[(frame["label"] != "clap") | (frame["task"] != "a")], marked])
    )
    assert set(found.ranks) == {"coop", "gda"}
    (label, why) = next(iter(found.left_out.items()))
    assert label.startswith("clap")
    assert label != "clap"
    assert why == "not comparable"
    both = compare(pd.concat([scored(coop=methods["coop"]), marked]))
    assert both == []


def test_signs_that_do_not_keep_a_method_out_stand_beside_it():
    free = pd.DataFrame([run("clap", 60.0, one, selection="validation_free") for one in "ab"])
    seen = pd.DataFrame([run("calip", 61.0, one, saw_test_images=True) for one in "ab"])
    (found,) = compare(pd.concat([free, seen]))
    assert set(found.ranks) == {"clap¶", "calip‡"}


def test_a_method_without_a_dataset_is_left_out_and_named():
    (found,) = compare(
        scored(coop=each(80.0, 70.0, 60.0), gda=each(81.0, 71.0, 61.0), clap={"b": {1: 99.0}})
    )
    assert set(found.ranks) == {"coop", "gda"}
    assert found.left_out == {"clap": "not run on a, c"}
    assert found.datasets == ["a", "b", "c"]


def test_a_record_without_what_counts_is_as_if_it_were_not_there():
    frame = scored(coop=each(80.0, 70.0), gda=each(81.0, 71.0), clap=each(math.nan, 60.0))
    (found,) = compare(frame)
    assert found.left_out == {"clap": "not run on a"}
    relaxed = frame.assign(protocol="imbalanced_relaxed")
    assert compare(relaxed) == []  # their records have no mean class accuracy
    assert compare(relaxed.assign(mean_class_accuracy=frame["accuracy"])) != []


def test_runs_of_different_protocols_backbones_and_shots_are_compared_among_themselves():
    usual = scored(coop=each(80.0, 70.0), gda=each(81.0, 71.0))
    halves = usual.assign(protocol="base_to_new", harmonic_mean=usual["accuracy"][::-1].to_numpy())
    more = usual.assign(shots=16)
    other = usual.assign(backbone="rn50")
    found = compare(pd.concat([usual, halves, more, other]))
    assert [(one.protocol, one.backbone, one.shots) for one in found] == [
        ("all_classes", "tiny", 4), ("all_classes", "tiny", 16), ("all_classes", "rn50", 4),
        ("base_to_new", "tiny", 4),
    ]  # fmt: skip
    assert [next(iter(one.ranks)) for one in found] == ["gda", "gda", "gda", "coop"]
    assert [one.ranked for one in found] == [2, 2, 2, 2]
    assert found[-1].title == "tiny, base_to_new, shots=4"


def test_tested_elsewhere_methods_are_compared_on_the_targets_only():
    frame = pd.DataFrame([
        run(method, accuracy, dataset, adapted_on="s", protocol="cross_dataset")
        for method, own in {"coop": (99, 50, 40), "gda": (10, 51, 41)}.items()
        for dataset, accuracy in zip("sab", map(float, own), strict=True)
    ])  # fmt: skip
    (found,) = compare(frame)
    assert found.datasets == ["s → a", "s → b"]
    assert found.ranks == {"gda": 1.0, "coop": 2.0}
    assert found.title == "tiny, cross_dataset, adapted to s, shots=4"
    assert compare(frame.assign(protocol="all_classes")) == []


def test_datasets_without_a_common_seed_are_not_ranked():
    coop, gda, clap = ({"a": {1: 5.0}, "b": {seed: 5.0 + seed}} for seed in (1, 2, 2))
    (found,) = compare(scored(coop=coop, gda=gda, clap=clap))
    assert found.ranked == 1
    by_names = {(one.first, one.second): list(one.differences) for one in found.pairs}
    assert by_names == {
        ("coop", "gda"): ["a"],
        ("coop", "clap"): ["a"],
        ("gda", "clap"): ["a", "b"],
    }
