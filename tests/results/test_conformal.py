import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.results.conformal import SCORES, calibrate, figures, kept_apart, prediction_sets
from src.validation import CHOICES

SEEDS = st.integers(0, 2**31)


def drawn(generator, n, c, hundredths=False):
    """Draw probabilities `[n, c]`; in hundredths, many of a row are equal."""
    found = generator.dirichlet(np.full(c, 0.5), size=n)
    if hundredths:
        found = np.round(20 * found) / 20
    return found.astype(np.float32)


def plain(row, y, score):
    """Score one class of one image by the definition."""
    above = [
        k for k, p in enumerate(row) if p > row[y] or (p == row[y] and k < y)
    ]  # in no order: sums are compared with a tolerance
    if score == "lac":
        return 1 - row[y]
    penalty = 0.001 * max(0, len(above) + 1 - 1) if score == "raps" else 0
    return sum(row[k] for k in above) + penalty


def test_the_scores_are_those_that_can_be_configured():
    assert tuple(SCORES) == CHOICES["conformal"]


@given(SEEDS, st.integers(1, 12), st.integers(1, 8), st.booleans(), st.sampled_from([*SCORES]))
def test_each_score_equals_its_plain_definition(seed, n, c, hundredths, score):
    probabilities = drawn(np.random.default_rng(seed), n, c, hundredths)
    found = SCORES[score](probabilities)
    assert found.dtype == np.float64
    rows = probabilities.astype(float).tolist()
    expected = [[plain(row, y, score) for y in range(c)] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(SEEDS, st.integers(1, 60), st.integers(1, 99), st.sampled_from([*SCORES]))
@example(0, 99, 55, "lac")  # in floats, 0.55 · 100 is more than 55
def test_the_threshold_is_the_least_that_enough_images_stay_below(seed, n, per_cent, score):
    generator = np.random.default_rng(seed)
    probabilities = drawn(generator, n, 4)
    label = generator.integers(4, size=n)
    found = calibrate(probabilities, label, score, per_cent / 100)
    scores = sorted(
        float(row[y]) for row, y in zip(SCORES[score](probabilities), label, strict=True)
    )
    # The n-th part of ⌈(n + 1) coverage⌉, in whole numbers.
    enough = [s for k, s in enumerate(scores, start=1) if 100 * k >= per_cent * (n + 1)]
    assert found["threshold"] == (enough[0] if enough else None)
    assert (found["score"], found["coverage"], found["images"]) == (score, per_cent / 100, n)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(("images", "all_classes"), [(8, True), (9, False)])
def test_too_few_images_for_the_coverage_make_sets_of_all_classes(images, all_classes):
    probabilities = np.tile(np.float32([[0.9, 0.06, 0.04]]), (images, 1))
    made = calibrate(probabilities, np.zeros(images, dtype=np.int64), "lac", 0.9)
    assert (made["threshold"] is None) == all_classes
    sets = prediction_sets(probabilities[:1], made)
    assert sets.tolist() == ([[True] * 3] if all_classes else [[True, False, False]])


@given(SEEDS, st.integers(2, 30), st.integers(1, 6), st.booleans(), st.sampled_from([*SCORES]))
def test_calibrated_on_themselves_images_are_covered_and_sets_are_the_plain_ones(
    seed, n, c, hundredths, score
):
    generator = np.random.default_rng(seed)
    probabilities = drawn(generator, n, c, hundredths)
    label = generator.integers(c, size=n)
    made = calibrate(probabilities, label, score, 0.5)
    sets = prediction_sets(probabilities, made)
    assert sets.dtype == np.bool_
    assert figures(sets, label, 0.5)["coverage"] >= 50
    if score != "lac":
        assert sets[np.arange(n), probabilities.argmax(axis=1)].all()
    for row, members in zip(probabilities.astype(float).tolist(), sets.tolist(), strict=True):
        for y, member in enumerate(members):
            margin = plain(row, y, score) - made["threshold"]
            assert member == (margin <= 0) or math.isclose(margin, 0, abs_tol=1e-9)


@given(SEEDS, st.sampled_from([*SCORES]))
@settings(max_examples=20)
def test_new_images_are_covered_as_often_as_was_asked(seed, score):
    """The mean over splits of exchangeable images is at least the coverage, and not much more."""
    generator = np.random.default_rng(seed)
    covered = []
    for split in range(60):
        probabilities = drawn(generator, 200, 6)
        label = (probabilities.cumsum(axis=1) < generator.random((200, 1))).sum(axis=1).clip(max=5)
        apart = kept_apart(label, split)
        made = calibrate(probabilities[apart], label[apart], score, 0.8)
        sets = prediction_sets(probabilities[~apart], made)
        covered.append(figures(sets, label[~apart], 0.8)["coverage"])
    # One split's coverage spreads by 5.7, the mean of 60 by 0.74.
    assert 76.5 < np.mean(covered) < 84.5


def test_figures_are_counted_image_by_image():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=np.bool_)
    label = np.array([0, 2, 2, 2])
    found = figures(sets, label, 0.9)
    assert found["coverage"] == pytest.approx(50.0)
    assert found["mean_set_size"] == pytest.approx(1.5)
    # Class 0: 100 %, class 2: one in three; class 1 has no image.
    assert found["class_coverage_gap"] == pytest.approx(100 * (0.1 + (0.9 - 1 / 3)) / 2)


@given(SEEDS, st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_half_of_each_class_is_kept_apart_and_the_only_image_of_a_class(seed, label):
    label = np.array(label)
    apart = kept_apart(label, seed)
    for one in np.unique(label):
        n = int((label == one).sum())
        assert apart[label == one].sum() == max(1, n // 2)
    assert (apart == kept_apart(label, seed)).all()


def test_another_seed_keeps_other_images_apart():
    label = np.zeros(40, dtype=np.int64)
    assert (kept_apart(label, 1) != kept_apart(label, 2)).any()


def test_with_a_single_class_each_set_holds_it():
    probabilities = np.ones((20, 1), dtype=np.float32)
    label = np.zeros(20, dtype=np.int64)
    for score in SCORES:
        made = calibrate(probabilities, label, score, 0.9)
        assert figures(prediction_sets(probabilities, made), label, 0.9) == {
            "coverage": 100.0,
            "mean_set_size": 1.0,
            "class_coverage_gap": pytest.approx(10.0),
        }
