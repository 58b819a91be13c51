"""Datasets of shards on this disk: splits, classes, indexes."""

import json
import logging
import os
import pickle

import numpy as np
import pytest
from filelock import FileLock

from src.data.images import DamagedImageError
from src.data.rows import Rows
from src.data.webdataset import index as index_module
from src.data.webdataset.index import FOLDER
from src.errors import UserError
from tests.data.webdataset.making import dataset, png, samples, shade, shards, tar


@pytest.fixture
def divided(tmp_path):
    """Write two shards of 10 and 6 images for training, and one of 4 for testing."""
    shards(tmp_path / "data/train", 10, 6)
    shards(tmp_path / "data/test", 4, first=100)
    return tmp_path / "data"


def test_rows_are_images_in_their_order(tmp_path, divided):
    images = dataset(tmp_path / "store", divided)
    test = images.splits["test"]
    assert isinstance(test, Rows)
    assert [(item.key, item.label) for item in test] == [
        ("test/0", 0), ("test/1", 1), ("test/2", 0), ("test/3", 1),
    ]  # fmt: skip
    assert [shade(images, item) for item in test] == [100, 101, 102, 103]
    assert images.where(test[2]) == f"{divided}/test/0.tar: s0102.png"
    assert images.root == str(divided)
    assert images.class_names == ["0", "1"]


def test_val_is_drawn_from_train_and_said(tmp_path, divided):
    images = dataset(tmp_path / "store", divided)
    train, val = images.splits["train"], images.splits["val"]
    assert (len(train), len(val)) == (14, 2)  # a fifth of the eight of each class
    assert sorted(val.labels) == [0, 1]
    assert sorted([*train.rows, *val.rows]) == list(range(16))
    for item in val:
        row = int(item.key.removeprefix("train/"))
        assert shade(images, item) == row and item.label == row % 2
    assert images.notes == ["val is 20% of each class of train, drawn with dataset.split_seed=0"]
    again, other = (dataset(tmp_path / "store", divided, seed=seed) for seed in (0, 5))
    assert np.array_equal(again.splits["val"].rows, val.rows)
    assert not np.array_equal(other.splits["val"].rows, val.rows)
    shards(divided / "val", 4, first=200)
    given = dataset(tmp_path / "store", divided)
    assert (len(given.splits["val"]), len(given.splits["train"]), given.notes) == (4, 16, [])


def test_shards_of_no_split_are_divided(tmp_path):
    shards(tmp_path / "data", 10, 10)
    images = dataset(tmp_path / "store", f"{tmp_path}/data/{{0..1}}.tar")
    assert {split: len(items) for split, items in images.splits.items()} == {
        "train": 10, "val": 4, "test": 6,
    }  # fmt: skip
    every = [row for items in images.splits.values() for row in items.rows]
    assert sorted(every) == list(range(20))
    (tmp_path / "data/2.tar").write_bytes(tar(("z.png", png(9)), ("z.cls", b"2")))
    with pytest.raises(UserError, match=r"too few images of '2 \(1\)' to divide"):
        dataset(tmp_path / "store", tmp_path / "data")


def test_only_test_shards_are_enough(tmp_path, divided):
    images = dataset(tmp_path / "store", None, {"test": f"{divided}/train/*.tar"})
    assert {split: len(items) for split, items in images.splits.items()} == {
        "train": 0, "val": 0, "test": 16,
    }  # fmt: skip
    with pytest.raises(UserError, match="has no test shards"):
        dataset(tmp_path / "store", None, {"train": f"{divided}/train/*.tar"})


def test_an_index_is_made_once_and_shard_by_shard(tmp_path, divided, monkeypatch, caplog):
    seen = []
    scan = index_module.scan

    def failing(file, shard, label):
        seen.append(shard)
        if shard.endswith("train/1.tar"):
            raise UserError("interrupted")
        return scan(file, shard, label)

    monkeypatch.setattr(index_module, "AT_ONCE", 1)
    monkeypatch.setattr(index_module, "scan", failing)
    with pytest.raises(UserError, match="interrupted"):
        dataset(tmp_path / "store", divided)
    assert seen == [f"{divided}/{one}.tar" for one in ("test/0", "train/0", "train/1")]
    seen.clear()
    monkeypatch.setattr(index_module, "scan", lambda *a: seen.append(a[1]) or scan(*a))
    first = dataset(tmp_path / "store", divided)
    assert seen == [f"{divided}/train/1.tar"]
    again = dataset(tmp_path / "store", divided)
    assert len(seen) == 1
    assert first.fingerprint(first.splits["train"]) == again.fingerprint(again.splits["train"])
    assert [path.suffix for path in (tmp_path / "store" / FOLDER).glob("[!l]*")] == [
        ".safetensors"
    ] * 3


def test_a_replaced_shard_is_indexed_again_and_its_features_are_others(
    tmp_path, divided, monkeypatch
):
    before = dataset(tmp_path / "store", divided)
    shard = divided / "train/1.tar"
    old = shard.stat()
    shard.write_bytes(tar(*samples(30, 6)))
    assert shard.stat().st_size == old.st_size
    os.utime(shard, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    with pytest.raises(UserError, match=r"train/1.tar was replaced while it was read"):
        before.load(next(item for item in before.splits["train"] if item.key == "train/12"))
    seen, scan = [], index_module.scan
    monkeypatch.setattr(index_module, "scan", lambda *a: seen.append(a[1]) or scan(*a))
    after = dataset(tmp_path / "store", divided)
    assert seen == [str(shard)]
    for split, same in (("train", False), ("val", False), ("test", True)):
        prints = [one.fingerprint(one.splits[split]) for one in (before, after)]
        assert (prints[0] == prints[1]) == same


def test_what_is_drawn_has_the_fingerprint_of_its_rows(tmp_path, divided):
    images = dataset(tmp_path / "store", divided)
    train = images.splits["train"]
    some = [train[3], train[1]]
    assert images.fingerprint(some) == images.fingerprint(train.chosen(np.array([3, 1])))
    assert images.fingerprint(some) != images.fingerprint(some[::-1])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "other"])
def test_a_damaged_index_is_made_again(tmp_path, divided, damage):
    first = dataset(tmp_path / "store", divided)
    names = [first.where(item) for item in first.splits["test"]]
    for path in (tmp_path / "store" / FOLDER).glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        if damage == "flipped":
            content[-1] ^= 1
        path.write_bytes(
            {"truncated": content[:-8], "flipped": content, "emptied": b"", "other": b"x" * 99}[
                damage
            ]
        )
    again = dataset(tmp_path / "store", divided)
    assert [shade(again, item) for item in again.splits["test"]] == [100, 101, 102, 103]
    assert [again.where(item) for item in again.splits["test"]] == names


def test_another_process_is_waited_for(tmp_path, divided, monkeypatch, caplog):
    folder = tmp_path / "store" / FOLDER
    folder.mkdir(parents=True)
    other = FileLock(folder / "lock", thread_local=False)
    other.acquire()
    scan = index_module.scan
    alone, done = index_module._alone, []

    def waiting(path):
        lock = alone(path)
        for shard in (divided / "train/0.tar", divided / "train/1.tar", divided / "test/0.tar"):
            which = index_module._path(folder, index_module_shard(shard), None)
            status = index_module_shard(shard).status()
            with shard.open("rb") as file:
                index_module._write(which, status, scan(file, str(shard), None))
        other.release()
        return lock

    monkeypatch.setattr(index_module, "_alone", waiting)
    monkeypatch.setattr(index_module, "scan", lambda *a: done.append(a))
    with caplog.at_level(logging.INFO):
        dataset(tmp_path / "store", divided)
    assert not done and "another process is indexing" in caplog.text


def index_module_shard(path):
    from src.data.webdataset.shards import LocalShard

    return LocalShard(path)


def test_workers_are_given_the_dataset(tmp_path, divided):
    images = pickle.loads(pickle.dumps(dataset(tmp_path / "store", divided)))
    assert shade(images, images.splits["test"][1]) == 101


def test_bytes_that_are_no_image_are_named(tmp_path, divided):
    (divided / "test/0.tar").write_bytes(
        tar(("a.png", png(1)[:40]), ("a.cls", b"0"), ("b\n.png", b"no"), ("b\n.cls", b"1"))
    )
    images = dataset(tmp_path / "store", divided)
    for item, name in zip(images.splits["test"], ("a.png", "b\\n.png"), strict=True):
        with pytest.raises(DamagedImageError) as refused:
            images.load(item)
        assert refused.value.where == f"{divided}/test/0.tar: {name}"


def test_a_key_of_two_shards_is_refused(tmp_path):
    shards(tmp_path / "data/test", 4, 4)
    (tmp_path / "data/test/1.tar").write_bytes(tar(*samples(3, 4)))
    with pytest.raises(UserError) as refused:
        dataset(tmp_path / "store", tmp_path / "data")
    for place in ("'s0003.png' in", "test/0.tar", "test/1.tar"):
        assert place in str(refused.value)
    with pytest.raises(UserError, match=r"\(4 such keys\)"):
        dataset(tmp_path / "store", None, {"test": [f"{tmp_path}/data/test/0.tar"] * 2})


def test_classes_are_named_by_the_file_beside_the_shards(tmp_path, divided):
    (divided / "classnames.txt").write_text("ant\nbee \ncow\n")
    images = dataset(tmp_path / "store", divided)
    assert images.class_names == ["ant", "bee", "cow"]  # the last one has no image
    (divided / "classnames.txt").write_text("ant\n")
    with pytest.raises(UserError) as refused:
        dataset(tmp_path / "store", divided)
    assert str(refused.value).startswith(f"the label of 's0101.png' in the shard {divided}/test/0")
    assert "classnames.txt names the classes 0 to 0" in str(refused.value)
    (divided / "classnames.txt").write_text("ant\n\nbee\n")
    with pytest.raises(UserError, match="no class name on line 2"):
        dataset(tmp_path / "store", divided)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.json", json.dumps({"0": "ant", "1": "bee", "7": "cow"})),
        ("n.txt", "0 ant\n1 bee\n"),
        ("n.txt", "ant\nbee\n"),
    ],
)
def test_classes_are_named_by_the_users_file(tmp_path, divided, name, content):
    (tmp_path / name).write_text(content)
    images = dataset(tmp_path / "store", divided, names=str(tmp_path / name))
    assert images.class_names == ["ant", "bee"]
    assert [item.label for item in images.splits["test"]] == [0, 1, 0, 1]


def test_numbers_with_gaps_are_counted_anew_unless_they_are_named(tmp_path):
    folder = tmp_path / "data/test"
    folder.mkdir(parents=True)
    members = [("a.png", png(1)), ("a.cls", b"900000000"), ("b.png", png(1)), ("b.cls", b"3")]
    (folder / "0.tar").write_bytes(tar(*members))
    images = dataset(tmp_path / "store", tmp_path / "data")
    assert images.class_names == ["3", "900000000"]
    assert [item.label for item in images.splits["test"]] == [1, 0]


def test_names_are_the_same_classes_in_all_shards(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, one, other in (("test-0", "cat", "ant"), ("test-1", "dog", "cat")):
        members = [(f"{name}a.png", png(1)), (f"{name}a.txt", one.encode()),
                   (f"{name}b.png", png(1)), (f"{name}b.txt", other.encode())]  # fmt: skip
        (folder / f"{name}.tar").write_bytes(tar(*members))
    images = dataset(tmp_path / "store", folder)
    assert images.class_names == ["ant", "cat", "dog"]
    assert [item.label for item in images.splits["test"]] == [1, 0, 2, 1]
    shards(tmp_path / "more", 2)
    with pytest.raises(UserError, match=r"test-0.tar are names, those in .*0.tar numbers"):
        dataset(
            tmp_path / "store", None, {"test": f"{folder}/*.tar", "train": f"{tmp_path}/more/0.tar"}
        )


def test_one_class_is_no_classification(tmp_path):
    folder = tmp_path / "data/test"
    folder.mkdir(parents=True)
    (folder / "0.tar").write_bytes(tar(("a.png", png(1)), ("a.cls", b"0")))
    with pytest.raises(UserError, match="one class, '0'"):
        dataset(tmp_path / "store", tmp_path / "data")


def test_what_is_left_out_is_counted_once(tmp_path, divided, caplog):
    (divided / "test/0.tar").write_bytes(tar(*samples(100, 4), ("x.json", b""), ("README", b"")))
    dataset(tmp_path / "store", divided)
    assert "left out of 3 shards: 1 without an ending, 1 .json" in caplog.text
    caplog.clear()
    dataset(tmp_path / "store", divided)
    assert "left out" not in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label": "class"}, "dataset.label=class: give cls"),
        ({"label": "json"}, "dataset.label=json: give cls"),
        ({"seed": -1}, "dataset.split_seed=-1"),
        ({"path": "/nowhere.tar"}, "cannot read the shard /nowhere.tar"),
        ({"path": "/dev/null"}, "the shard /dev/null is no file"),
    ],
)
def test_a_mistake_is_told(tmp_path, divided, given, message):
    with pytest.raises(UserError, match=message):
        dataset(tmp_path / "store", **{"path": divided} | given)
