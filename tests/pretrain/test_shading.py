import numpy as np
import pytest

from src.data.solids import KINDS, make
from src.pretrain.shading import shade

AMBIENT, COLOUR = 0.25, 0.64
"""A generator that always draws the middle of a range."""


def rendering(kind: str, *seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return shade(make(kind, generator), 32, generator)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rendering_is_rgb_between_0_and_1_and_repeatable(kind: str):
    image = rendering(kind, 1)
    assert image.shape == (32, 32, 3)
    assert 0 <= image.min() <= image.max() <= 1
    assert np.array_equal(image, rendering(kind, 1))
    assert not np.array_equal(image, rendering(kind, 2))


def shaded_ball(lamp, ground: float) -> np.ndarray:
    """Render a ball with this lamp; every other choice is the middle of its range."""

    generator = np.random.default_rng(0)

    class Middle:
        choice, random = generator.choice, generator.random

        def uniform(self, low, high, size=None):
            middle = ground if (low, high) == (0, 1) else (low + high) / 2
            return np.full(size, middle) if size else middle

        def normal(self, mean, deviation=1, size=None):
            return np.asarray(lamp) if size is None else np.full(size, mean)

    return shade(KINDS["sphere"](np.random.default_rng(0)), 32, Middle())[:, :, 0]


def test_the_side_towards_the_lamp_is_the_bright_one():
    right, above, front = (shaded_ball(lamp, 0) for lamp in np.eye(3))
    assert right[8:24, 16:].mean() > 1.5 * right[8:24, :16].mean()
    assert above[:16, 8:24].mean() > 1.5 * above[16:, 8:24].mean()
    # By Lambert's law, a ball lit from the camera shows the cosine of the angle to its normal.
    radius = np.sqrt((front > 0).sum() / np.pi)
    assert front[16, 16] == pytest.approx(COLOUR, rel=0.05)
    cosine = np.sqrt(1 - 0.9**2)
    rim = front[16, round(16 + 0.9 * radius)]
    assert rim == pytest.approx(COLOUR * (AMBIENT + (1 - AMBIENT) * cosine), rel=0.15)


def test_only_the_near_side_is_seen():
    behind = shaded_ball((0, 0, -1), 0)
    inside = behind[behind > 0.05]
    assert inside.std() < 0.15 * inside.mean()  # There is only ambient light.


def test_a_ball_is_round_and_the_ground_is_around_it():
    covered = shaded_ball((0, 0, 1), 0) > 0
    rows, columns = (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    assert len(rows) == pytest.approx(len(columns), abs=1)
    assert covered.sum() == pytest.approx(np.pi * (len(rows) / 2) ** 2, rel=0.1)
    assert not covered[[0, 0, -1, -1], [0, -1, 0, -1]].any()
