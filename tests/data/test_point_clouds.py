import multiprocessing
import os
import random

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.images import Item
from src.data.point_clouds import HDF5Clouds, hold_out, read_rows
from src.errors import UserError

REMEDY = "Fetch it again."


def write(path, data, label):
    with h5py.File(path, "w") as content:
        content["data"], content["label"] = np.asarray(data), np.asarray(label)
    return path


def clouds(path, views=6, points=1024):
    items = read_rows(path.parent, {"train": [path.name]}, "ab", REMEDY)[0]["train"]
    return HDF5Clouds(
        "ab", {"train": items, "val": [], "test": []}, views, points, path.parent
    ), items


@pytest.fixture
def points():
    return np.random.default_rng(0).normal((5, -2, 1), 3, (4, 7, 3)).astype(np.float32)


@given(st.integers(0, 2**32), st.integers(2, 50))
def test_a_loaded_cloud_is_centred_and_touches_the_unit_sphere(tmp_path_factory, seed, count):
    generator = np.random.default_rng(seed)
    raw = generator.normal(generator.uniform(-9, 9, 3), generator.uniform(0.1, 9), (1, count, 3))
    path = write(tmp_path_factory.mktemp("clouds") / "one.h5", raw.astype(np.float32), [0])
    dataset, [item] = clouds(path)
    cloud = dataset.load(item)
    assert cloud.dtype == np.float32
    assert np.abs(cloud.mean(axis=0)).max() < 1e-5
    assert np.linalg.norm(cloud, axis=1).max() == pytest.approx(1, abs=1e-6)
    shape = (raw[0] - raw[0, 0]) / np.linalg.norm(raw[0] - raw[0].mean(0), axis=1).max()
    assert np.allclose(cloud - cloud[0], shape, atol=1e-4)


def test_the_first_points_of_the_whole_cloud_are_used(tmp_path, points):
    """As in PointCLIP, which reads 1,024 of 2,048 points of clouds that are normalised as files."""
    path = write(tmp_path / "clouds.h5", points, [0, 1, 1, 0])
    (all_points, items), (few, _) = clouds(path), clouds(path, points=3)
    for item in items:
        assert np.array_equal(few.load(item), all_points.load(item)[:3])


@pytest.mark.parametrize("label", [[0, 1, 1, 0], [[0], [1], [1], [0]]])
def test_rows_come_with_their_labels_in_the_files_order(tmp_path, points, label):
    first = write(tmp_path / "b.h5", points, label)
    write(tmp_path / "a.h5", points[:2], [1, 0])
    items = read_rows(first.parent, {"train": ["b.h5", "a.h5"]}, "ab", REMEDY)[0]["train"]
    keys = [*(f"b.h5:{row}" for row in range(4)), "a.h5:0", "a.h5:1"]
    assert items == [*map(Item, keys, (0, 1, 1, 0, 1, 0))]


def test_points_are_read_when_a_cloud_is_loaded(tmp_path, points):
    path = write(tmp_path / "clouds.h5", points, [0, 1, 1, 0])
    dataset, items = clouds(path)
    with h5py.File(path, "r+") as content:
        content["data"][2] = content["data"][0]
    assert np.array_equal(dataset.load(items[2]), dataset.load(items[0]))


def test_other_processes_read_the_same_after_this_one_did(tmp_path, points):
    dataset, items = clouds(write(tmp_path / "clouds.h5", points, [0, 1, 1, 0]))
    here = [dataset.load(item) for item in items]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert np.array_equal(pool.map(dataset.load, items), here)


def test_the_fingerprint_knows_rows_labels_and_the_file(tmp_path, points):
    path = write(tmp_path / "clouds.h5", points, [0, 1, 1, 0])
    dataset, items = clouds(path)
    others = [items[:3], items[::-1], [items[0]._replace(label=1), *items[1:]]]
    fingerprints = [dataset.fingerprint(some) for some in [items, *others]]
    assert dataset.fingerprint(list(items)) == fingerprints[0]
    size = path.stat().st_size
    path.unlink()
    write(path, points[:, ::-1], [0, 1, 1, 0])
    assert path.stat().st_size == size
    os.utime(path, (1, 1))
    fingerprints.append(dataset.fingerprint(items))
    assert len(set(fingerprints)) == 5


def test_the_number_of_views_is_checked(tmp_path, points):
    path = write(tmp_path / "clouds.h5", points, [0, 1, 1, 0])
    assert clouds(path, views=10)[0].views == 10
    for views in (7, 6.0):
        with pytest.raises(UserError, match=rf"dataset\.views={views}: give 6, .* or 10"):
            clouds(path, views=views)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (np.full((7, 3), np.nan), r"row 1 of .*clouds\.h5 has coordinates that are not finite"),
        (np.full((7, 3), np.inf), "not finite"),
        (np.full((7, 3), 4.5), r"row 1 of .*clouds\.h5 is empty"),
        (np.eye(7, 3) * 1e200, "too large"),
    ],
)
def test_an_unusable_cloud_is_the_users_mistake(tmp_path, points, row, message):
    points = points.astype(np.float64)
    points[1] = row
    dataset, items = clouds(write(tmp_path / "clouds.h5", points, [0, 1, 1, 0]))
    dataset.load(items[0])
    with pytest.raises(UserError, match=message):
        dataset.load(items[1])


def test_clouds_without_points_are_the_users_mistake(tmp_path):
    dataset, [item] = clouds(write(tmp_path / "clouds.h5", np.zeros((1, 0, 3), np.float32), [0]))
    with pytest.raises(UserError, match="is empty"):
        dataset.load(item)


@pytest.mark.parametrize(
    ("data", "label", "message"),
    [
        (np.zeros((2, 7, 3)), [0, 2], r"gives row 1 the label 2, but the 2 classes are 0 to 1"),
        (np.zeros((2, 7, 3)), [-1, 0], r"gives row 0 the label -1"),
        (np.zeros((2, 7, 3)), np.array([2**64 - 1, 0], np.uint64), "row 0 the label 184467"),
        (np.zeros((2, 7, 3)), [0], r"label must be 2 integers, not 1 int64"),
        (np.zeros((2, 7, 3)), [0.0, 1.0], r"label must be 2 integers, not 2 float64"),
        (
            np.zeros((2, 7, 6)),
            [0, 1],
            r"data must be floats \[clouds, points, 3\], not .*\[2, 7, 6",
        ),
        (np.zeros((2, 3)), [0, 1], r"data must be floats"),
        (np.zeros((2, 7, 3), int), [0, 1], r"data must be floats .* not int64"),
    ],
)
def test_wrong_contents_are_the_users_mistake(tmp_path, data, label, message):
    path = write(tmp_path / "clouds.h5", data, label)
    with pytest.raises(UserError, match=rf"clouds\.h5.*{message}.*{REMEDY}"):
        clouds(path)


def test_files_of_different_numbers_of_points_are_refused(tmp_path, points):
    write(tmp_path / "a.h5", points, [0] * 4)
    write(tmp_path / "b.h5", points[:, :5], [0] * 4)
    with pytest.raises(UserError, match=r"b\.h5 has clouds of 5 points, and a\.h5 of 7"):
        read_rows(tmp_path, {"train": ["a.h5"], "test": ["b.h5"]}, "ab", REMEDY)


def test_other_keys_another_format_and_no_file_are_the_users_mistake(tmp_path):
    with h5py.File(tmp_path / "keys.h5", "w") as content:
        content["points"] = np.zeros((2, 7, 3))
        content.create_group("label")
    with pytest.raises(UserError, match=r"keys\.h5 lacks data and label: its keys are label, poi"):
        clouds(tmp_path / "keys.h5")
    (tmp_path / "page.h5").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"page\.h5 is not an intact HDF5 file"):
        clouds(tmp_path / "page.h5")
    with pytest.raises(UserError, match=r"the file .*none\.h5 is missing. Fetch it again"):
        clouds(tmp_path / "none.h5")


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(0, 2**32))
def test_a_fifth_of_each_class_is_held_out(labels, seed):
    items = [Item(f"f.h5:{row}", label) for row, label in enumerate(labels)]
    train, val = hold_out(items, "abc")
    assert sorted(train + val) == sorted(items)
    assert train == [item for item in items if item in train]
    assert val == [item for item in items if item in val]
    for label in range(3):
        count = labels.count(label)
        held = sum(item.label == label for item in val)
        assert held == (count // 5 if count >= 5 else int(count > 1))
    # The result depends neither on other classes, nor on labels, nor on the global generator.
    random.seed(seed)
    alone = [item._replace(label=0) for item in items if item.label == 2]
    expected = [item._replace(label=0) for item in val if item.label == 2]
    assert hold_out(alone, "c")[1] == expected
