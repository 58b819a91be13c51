from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import build, compose
from src.data import solids
from src.data.solids import KINDS, make, sample
from src.errors import UserError

SIZES = {"train": 3, "val": 1, "test": 2}
seeds = st.integers(0, 2**32)


def read(points=64, seed=0, sizes=SIZES):
    return solids.read(sizes, points, seed, views=6)


def test_every_kind_has_as_many_clouds_as_asked_for():
    dataset = read()
    assert len(dataset.class_names) >= 8
    for split, count in SIZES.items():
        labels = Counter(item.label for item in dataset.splits[split])
        assert labels == dict.fromkeys(range(len(KINDS)), count)
        assert all(dataset.load(item).shape == (64, 3) for item in dataset.splits[split])


def test_a_cloud_depends_only_on_the_seed_and_on_itself():
    one = read(sizes=dict.fromkeys(SIZES, 2))
    other = read(sizes=dict.fromkeys(SIZES, 4))
    [everything, reverse] = (
        {item: one.load(item).tobytes() for item in order}
        for items in [[item for split in one.splits.values() for item in split]]
        for order in (items, items[::-1])
    )
    assert everything == reverse
    assert len(set(everything.values())) == len(everything)
    assert all(other.load(item).tobytes() == cloud for item, cloud in everything.items())
    changed = read(seed=1)
    assert all(changed.load(item).tobytes() != one.load(item).tobytes() for item in everything)


def test_the_fingerprint_knows_what_clouds_are_made_from(monkeypatch):
    items = read().splits["test"]
    fingerprints = [
        read().fingerprint(items),
        read().fingerprint(items[1:]),
        read().fingerprint(read().splits["train"]),
        read(points=65).fingerprint(items),
        read(seed=1).fingerprint(items),
    ]
    monkeypatch.setitem(solids.KINDS, "star", solids.KINDS["cross"])
    fingerprints.append(read().fingerprint(items))
    assert len(set(fingerprints)) == len(fingerprints)


@given(st.sampled_from(list(KINDS)), seeds)
def test_a_surface_is_closed(kind: str, seed: int):
    triangles = make(kind, np.random.default_rng(seed)).round(9) + 0.0
    edges = Counter(
        frozenset((tuple(corners[i]), tuple(corners[i - 1])))
        for corners in triangles
        for i in range(3)
    )
    assert {count % 2 for count in edges.values()} == {0}


@settings(max_examples=30)
@given(st.sampled_from(list(KINDS)), seeds)
def test_points_lie_on_the_surface_and_normals_stand_on_it(kind: str, seed: int):
    generator = np.random.default_rng(seed)
    triangles = make(kind, generator)
    points, normals = sample(triangles, 20, generator)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)
    corners, first, second = np.moveaxis(triangles, 1, 0)
    for point, normal in zip(points, normals, strict=True):
        # Barycentric coordinates in every triangle; in at least one, all are positive.
        edges = np.stack([first - corners, second - corners], axis=2)
        weights = (np.linalg.pinv(edges) @ (point - corners)[:, :, None])[:, :, 0]
        away = np.linalg.norm((edges @ weights[:, :, None])[:, :, 0] - (point - corners), axis=1)
        inside = (weights > -1e-6).all(1) & (weights.sum(1) < 1 + 1e-6) & (away < 1e-6)
        assert inside.any()
        # A point on an edge lies in several triangles and has the normal of one of them.
        assert np.abs(edges[inside].transpose(0, 2, 1) @ normal).max(axis=1).min() < 1e-6


def test_points_are_spread_evenly_over_the_area():
    box = solids._quadrilaterals(  # two squares; one has nine times the other's area
        *np.array([[(0, 0, 0), (5, 0, 0)], [(1, 0, 0), (8, 0, 0)]], float),
        *np.array([[(1, 1, 0), (8, 3, 0)], [(0, 1, 0), (5, 3, 0)]], float),
    )
    points = sample(box, 40_000, np.random.default_rng(0)).points
    small = points[points[:, 0] < 2]
    assert len(small) / len(points) == pytest.approx(0.1, abs=0.01)
    counts = np.histogram2d(small[:, 0], small[:, 1], bins=4, range=[(0, 1), (0, 1)])[0]
    assert counts.min() > 0.7 * counts.mean()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points": 1}, "dataset.points=1"),
        ({"seed": -1}, "dataset.seed=-1"),
        ({"sizes": SIZES | {"val": 0}}, "dataset.per_class.val=0"),
        ({"points": 2.5}, "dataset.points=2.5 is not an integer"),
        ({"seed": "abc"}, "dataset.seed=abc is not an integer"),
        ({"sizes": SIZES | {"test": None}}, "dataset.per_class.test=None"),
        ({"sizes": 5}, "dataset.per_class=5: give"),
    ],
)
def test_a_number_that_is_too_small_or_none_is_the_users_mistake(changed, message):
    with pytest.raises(UserError, match=message):
        read(**changed)


def test_config_takes_any_size():
    config = compose(["dataset=solids", "dataset.per_class.test=1", "dataset.points=100"])
    dataset = build(config.dataset.reader)
    assert len(dataset.splits["test"]) == len(KINDS)
    assert dataset.load(dataset.splits["test"][0]).shape == (100, 3)
