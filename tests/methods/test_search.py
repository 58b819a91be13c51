import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.config import compose
from src.errors import UserError
from src.heads.calip import Calip
from src.methods.search import Range, Search, Values, correct_interval, search_from

OUTER, INNER = Range("beta2", 0.01, 1.0, 5), Range("beta3", 0.01, 8.0, 23)


class Lines:
    """Draw random logits: base + outer · tilt + inner · direction."""

    def __init__(self, seed, n=30, c=4, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        self.base, self.tilt, self.direction = torch.randn(
            3, n, c, generator=generator, dtype=dtype
        )
        self.label = torch.randint(c, (n,), generator=generator)

    def lines(self, outer_values, rows):
        for outer in outer_values:
            yield self.base[rows] + outer * self.tilt[rows], self.direction[rows]

    def right(self, outer, inner):
        logits = self.base + outer * self.tilt + inner * self.direction
        return int((logits.argmax(dim=1) == self.label).sum())

    def search(self, mode, default):
        search = Search(mode, OUTER, INNER, default)
        for rows in torch.arange(len(self.label)).split(7):
            search.add(self, [rows], self.label[rows])
        return search.best()


defaults = st.fixed_dictionaries({"beta2": st.floats(0.02, 0.9), "beta3": st.floats(0.02, 7)})


@given(st.integers(0, 2**31), defaults)
def test_grid_search_is_a_double_loop_in_which_the_first_best_wins(seed, default):
    lines = Lines(seed)
    best = (-1, None, None)
    for outer in OUTER.grid():
        for inner in INNER.grid():
            if lines.right(outer, inner) > best[0]:
                best = (lines.right(outer, inner), outer, inner)
    choice = lines.search("grid", default)
    assert choice.settings == {"beta2": best[1], "beta3": best[2]}
    assert choice.accuracy == pytest.approx(100 * best[0] / len(lines.label))


@pytest.mark.parametrize("seed", range(6))
def test_calips_grid_settles_ties_as_its_release_does(seed):
    """The release loops over beta2 outside and over beta3 inside, and only a better cell wins."""
    generator = torch.Generator().manual_seed(seed)
    image, spatial, text = (
        torch.randn(*shape, 8, generator=generator, dtype=torch.float64)
        for shape in [(12,), (12, 4), (3,)]
    )
    label = torch.randint(3, (12,), generator=generator)
    cfg = compose(["method=calip", "dataset=digits"])
    head = Calip(text, 100.0, 2.0, 1.12, 0.02)
    search = search_from("grid", cfg.method.search, head.chosen())
    search.add(head, [image, spatial], label)

    clip, by_text, by_image = head.terms(image, spatial)
    best = (-1, 0.0, 0.0)
    for i in range(200):
        beta2 = i * (2.0 - 0.001) / 200 + 0.001
        for j in range(200):
            beta3 = j * (0.1 - 0.001) / 200 + 0.001
            logits = clip + beta2 * by_text + beta3 * by_image
            right = int((logits.argmax(dim=1) == label).sum())
            if right > best[0]:
                best = (right, beta2, beta3)
    settings, accuracy = search.best()
    assert (settings["beta2"], settings["beta3"]) == pytest.approx(best[1:])
    assert accuracy == pytest.approx(100 * best[0] / 12)


@given(st.integers(0, 2**31), defaults)
def test_exact_search_is_at_least_as_good_as_any_grid(seed, default):
    lines = Lines(seed)
    choice = lines.search("exact", default)
    outer, inner = choice.settings["beta2"], choice.settings["beta3"]
    assert lines.right(outer, inner) == round(choice.accuracy * len(lines.label) / 100)
    assert choice.accuracy >= lines.search("grid", default).accuracy
    fine = np.linspace(INNER.low, INNER.high, 300)
    best = max(lines.right(value, x) for value in OUTER.grid() for x in fine)
    assert choice.accuracy >= 100 * best / len(lines.label) - 1e-9


@given(st.integers(0, 2**31), defaults)
def test_among_equally_good_settings_the_nearest_to_the_default_wins(seed, default):
    lines = Lines(seed, n=6)
    choice = lines.search("exact", default)
    right = round(choice.accuracy * 6 / 100)

    def distance(outer, inner):
        return math.hypot(math.log(outer / default["beta2"]), math.log(inner / default["beta3"]))

    # The search stays up to 5 % of an interval's log length away from its border.
    slack = 0.05 * math.log(INNER.high / INNER.low)
    for outer in OUTER.grid():
        for inner in np.geomspace(INNER.low, INNER.high, 100):
            if lines.right(outer, inner) == right:
                assert distance(*choice.settings.values()) <= distance(outer, inner) + slack
    if lines.right(default["beta2"], default["beta3"]) == right:
        assert choice.settings == default


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_an_image_is_right_exactly_inside_its_interval(seed, c):
    # Small integers make equal and parallel lines common.
    generator = torch.Generator().manual_seed(seed)
    base, direction = torch.randint(-2, 3, (2, 20, c), generator=generator).double()
    label = torch.randint(c, (20,), generator=generator)
    low, high = correct_interval(base, direction, label)
    for x in (-1.03, -0.26, 0.31, 0.77, 1.52, 3.97):  # such lines cross at none of these
        right = (base + x * direction).argmax(dim=1) == label
        assert torch.equal(right, (low < x) & (x < high))


@pytest.mark.parametrize("bounds", [(0.0, 1.0, 5), (1.0, 1.0, 5), (1.0, 2.0, 0)])
def test_an_empty_range_is_refused(bounds):
    with pytest.raises(UserError, match="search range of beta2 is empty"):
        Range("beta2", *bounds)


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match=r"selection\.search=random"):
        Search("random", OUTER, INNER, {"beta2": 0.1, "beta3": 1.0})


@pytest.mark.parametrize("mode", ["exact", "grid"])
def test_the_surface_is_the_accuracy_at_every_point_of_the_grid(mode):
    lines = Lines(3)
    search = Search(mode, OUTER, INNER, {"beta2": 0.3, "beta3": 1.0})
    search.add(lines, [torch.arange(len(lines.label))], lines.label)
    surface = search.surface()
    assert list(surface.axes) == ["beta2", "beta3"]
    assert surface.accuracy.dtype == np.float32
    expected = [
        [100 * lines.right(outer, inner) / len(lines.label) for inner in surface.axes["beta3"]]
        for outer in surface.axes["beta2"]
    ]
    np.testing.assert_allclose(surface.accuracy, expected, rtol=1e-6)


def test_where_logits_overflow_nothing_is_right():
    infinite = math.inf
    direction = torch.tensor(
        [[infinite, infinite, 1.0], [1.0, infinite, 1.0], [infinite, 1.0, 1.0]]
    )
    low, high = correct_interval(torch.ones(3, 3), direction, torch.tensor([0, 0, 0]))
    for x in (0.5, 2.0):
        assert ((low < x) & (x < high)).tolist() == [False, False, True]


class ThreeSettings(Lines):
    """Lines in `beta3` that move with `beta2` and bend with `gamma`."""

    def lines(self, outer_values, rows):
        for beta2, gamma in outer_values:
            yield self.base[rows] + beta2 * self.tilt[rows], gamma**2 * self.direction[rows]

    def right_at(self, beta2, gamma, beta3):
        logits = self.base + beta2 * self.tilt + beta3 * gamma**2 * self.direction
        return int((logits.argmax(dim=1) == self.label).sum())


GAMMA = Values("gamma", [0.5, 1.0, 3.0])


@given(st.integers(0, 2**31))
def test_a_grid_over_three_settings_is_a_triple_loop_in_which_the_first_best_wins(seed):
    lines = ThreeSettings(seed)
    default = {"beta2": 0.3, "gamma": 1.0, "beta3": 1.0}
    search = Search("grid", [OUTER, GAMMA], INNER, default)
    search.add(lines, [torch.arange(len(lines.label))], lines.label)
    best = (-1, None)
    for point in itertools.product(OUTER.grid(), GAMMA.grid(), INNER.grid()):
        if (right := lines.right_at(*point)) > best[0]:
            best = (right, dict(zip(("beta2", "gamma", "beta3"), point, strict=True)))
    choice = search.best()
    assert choice.settings == best[1]
    assert choice.accuracy == pytest.approx(100 * best[0] / len(lines.label))
    assert search.surface() is None


@given(st.integers(0, 2**31))
def test_an_exact_search_over_three_settings_is_right_as_often_as_it_says(seed):
    lines = ThreeSettings(seed)
    default = {"beta2": 0.3, "gamma": 1.0, "beta3": 1.0}
    found = {}
    for mode in ("grid", "exact"):
        search = Search(mode, [OUTER, GAMMA], INNER, default)
        search.add(lines, [torch.arange(len(lines.label))], lines.label)
        found[mode] = search.best()
        settings = [found[mode].settings[name] for name in ("beta2", "gamma", "beta3")]
        right = lines.right_at(*settings)
        assert found[mode].accuracy == pytest.approx(100 * right / len(lines.label))
    assert found["exact"].accuracy >= found["grid"].accuracy
