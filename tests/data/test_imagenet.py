import os
import random
import re
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data import imagenet
from src.data.images import Item
from src.errors import UserError

NAMES = "n00000001 tench\nn00000002 great white shark\nn00000003 tench\n"
WNIDS = ["n00000001", "n00000002", "n00000003"]


def fill(folder, *files):
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).touch()


def photos(wnid, count):
    return [f"{wnid}_{number}.JPEG" for number in range(count)]


def make_imagenet(root, sizes, names=NAMES, order=1):
    """Make an ImageNet with `sizes[k]` training images and two test images of class k."""
    for wnid, size in [*zip(WNIDS, sizes, strict=True)][::order]:
        fill(root / "images/train" / wnid, *photos(wnid, size)[::order])
        fill(root / "images/val" / wnid, "ILSVRC2012_val_2.JPEG", "ILSVRC2012_val_1.JPEG")
    (root / "classnames.txt").write_text(names)
    return root


def read_shift(root):
    return imagenet.read_shift(str(root), "images", str(root.parent / "imagenet/classnames.txt"))


def read_numbered(root):
    return imagenet.read_numbered_shift(str(root), "images", str(root / "none.txt"))


def files(dataset, split, label):
    return [item.key for item in dataset.splits[split] if item.label == label]


def test_classes_come_in_the_order_of_their_wnids_and_items_sorted(tmp_path):
    dataset = imagenet.read(str(make_imagenet(tmp_path, [10, 5, 2])))
    assert dataset.class_names == ["tench", "great white shark", "tench"]
    assert dataset.class_ids == WNIDS
    assert dataset.root == tmp_path / "images"
    assert dataset.splits["test"][:3] == [
        Item("val/n00000001/ILSVRC2012_val_1.JPEG", 0),
        Item("val/n00000001/ILSVRC2012_val_2.JPEG", 0),
        Item("val/n00000002/ILSVRC2012_val_1.JPEG", 1),
    ]
    for items in dataset.splits.values():
        assert items == sorted(items, key=lambda item: (item.label, item.key))


@pytest.mark.parametrize(
    ("size", "held_out"), [(1, 0), (2, 1), (9, 1), (10, 2), (249, 49), (250, 50), (300, 50)]
)
def test_a_fifth_and_at_most_50_training_images_are_held_out(tmp_path, size, held_out):
    dataset = imagenet.read(str(make_imagenet(tmp_path, [size, 1, 1])))
    train, val = (files(dataset, split, 0) for split in ("train", "val"))
    assert (len(val), len(train)) == (held_out, size - held_out)
    assert {*train} | {*val} == {f"train/n00000001/{file}" for file in photos(WNIDS[0], size)}
    assert all((dataset.root / key).is_file() for key in train + val)


def test_held_out_images_are_spread_and_differ_between_classes(tmp_path):
    dataset = imagenet.read(str(make_imagenet(tmp_path, [300, 300, 1])))
    first, second = ([key[-8:] for key in files(dataset, "val", label)] for label in (0, 1))
    assert first != second
    assert first != [key[-8:] for key in sorted(files(dataset, "train", 0))[:50]]


def test_splits_depend_neither_on_creation_nor_on_listing_order(tmp_path, monkeypatch):
    sizes = [30, 40, 7]
    first = imagenet.read(str(make_imagenet(tmp_path / "a", sizes))).splits
    reversed_ = make_imagenet(tmp_path / "b", sizes, order=-1)
    assert imagenet.read(str(reversed_)).splits == first
    in_order = os.scandir

    @contextmanager
    def shuffled(path):
        with in_order(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        random.Random(7).shuffle(found)
        yield iter(found)

    monkeypatch.setattr(os, "scandir", shuffled)
    assert imagenet.read(str(reversed_)).splits == first


def test_images_of_one_class_do_not_change_which_of_another_are_held_out(tmp_path):
    before = imagenet.read(str(make_imagenet(tmp_path, [30, 40, 7])))
    fill(tmp_path / "images/train" / WNIDS[0], "another.JPEG")
    after = imagenet.read(str(tmp_path))
    assert files(after, "val", 1) == files(before, "val", 1)


def test_only_test_images_are_enough_for_methods_that_need_no_others(tmp_path):
    make_imagenet(tmp_path, [1, 1, 1])
    (tmp_path / "images/train").rename(tmp_path / "elsewhere")
    splits = imagenet.read(str(tmp_path)).splits
    assert {split: len(items) for split, items in splits.items()} == {
        "train": 0, "val": 0, "test": 6,
    }  # fmt: skip


def test_what_is_no_image_and_no_class_is_passed_over(tmp_path):
    make_imagenet(tmp_path, [5, 5, 5])
    before = imagenet.read(str(tmp_path))
    fill(tmp_path / "images/train", "README.txt", "n00000001.tar")
    fill(tmp_path / "images/train/.cache", "1.JPEG")
    fill(tmp_path / "images/train" / WNIDS[0], "Thumbs.db", "._n00000001_0.JPEG")
    assert imagenet.read(str(tmp_path)) == before


def test_a_shift_has_the_classes_that_it_has_images_of(tmp_path):
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet/classnames.txt").write_text(NAMES)
    root = tmp_path / "imagenet-a"
    fill(root / "images", "README.txt")
    fill(root / "images/n00000003", "0.9_digital clock _ digital clock_0.8.jpg")
    fill(root / "images/n00000002", "art_1.jpg", "art_0.jpg")
    dataset = read_shift(root)
    assert dataset.class_names == ["great white shark", "tench"]
    assert dataset.class_ids == ["n00000002", "n00000003"]
    assert dataset.splits == {
        "train": [],
        "val": [],
        "test": [
            Item("n00000002/art_0.jpg", 0),
            Item("n00000002/art_1.jpg", 0),
            Item("n00000003/0.9_digital clock _ digital clock_0.8.jpg", 1),
        ],
    }
    (root / "classnames.txt").write_text(NAMES.replace("tench", "own"))
    assert read_shift(root).class_names == ["great white shark", "own"]


@given(st.integers(1, 120))
def test_numbered_folders_are_read_as_numbers(tmp_path_factory, count):
    root = tmp_path_factory.mktemp("v2")
    lines = [f"n{number:08d} class {number}\n" for number in range(count)]
    (root / "classnames.txt").write_text("".join(lines))
    for number in range(count):
        fill(root / f"images/{number}", f"{number}.jpeg")
    dataset = read_numbered(root)
    assert dataset.splits["test"] == [Item(f"{n}/{n}.jpeg", n) for n in range(count)]
    assert dataset.class_names == [f"class {number}" for number in range(count)]
    assert dataset.class_ids == [f"n{number:08d}" for number in range(count)]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["0", "1"],
            "the folders 0 to 2, one for each class of classnames.txt, and differs in '2'",
        ),
        (["0", "1", "2", "3"], "differs in '3'"),
        (["0", "1", "02"], "differs in '02', '2'"),
    ],
)
def test_numbered_folders_that_do_not_fit_the_names_are_refused(tmp_path, folders, message):
    (tmp_path / "classnames.txt").write_text(NAMES)
    for folder in folders:
        fill(tmp_path / "images" / folder, "1.jpeg")
    with pytest.raises(UserError, match=re.escape(message)):
        read_numbered(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "classnames.txt is empty"),
        ("n00000001\n", "line 1: 'n00000001' is not a wnid and a class name"),
        ("n00000001 tench\n\ngoldfish\n", "line 3: 'goldfish' is not a wnid"),
        ("n1 tench\n", "line 1: 'n1 tench' is not a wnid"),
        ("n00000002 a\nn00000001 b\n", "line 2: n00000001 does not follow n00000002 in order"),
        ("n00000001 a\nn00000001 b\n", "line 2: n00000001 does not follow n00000001 in order"),
        ("n00000001 tench\n", "no classes of classnames.txt: 'n00000002', 'n00000003'"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path, content, message):
    make_imagenet(tmp_path, [2, 2, 2], names=content)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        imagenet.read(str(tmp_path))
    assert str(tmp_path) in str(raised.value)


def test_a_file_of_class_names_that_is_not_text_is_refused(tmp_path):
    make_imagenet(tmp_path, [2, 2, 2])
    (tmp_path / "classnames.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"classnames\.txt is not text"):
        imagenet.read(str(tmp_path))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/classnames\.txt is missing.*dataset=imagenet`"):
        imagenet.read(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"shift/classnames\.txt or .*imagenet/classnames\.txt is"):
        read_shift(tmp_path / "shift")
    make_imagenet(tmp_path, [2, 2, 2])
    for file in (tmp_path / "images/val/n00000002").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"there is no image \(.*\) in '.*/val/n00000002'"):
        imagenet.read(str(tmp_path))
    (tmp_path / "images/val/n00000002").rmdir()
    with pytest.raises(UserError, match=r"has 'n00000002' in only one of train and val"):
        imagenet.read(str(tmp_path))
    (tmp_path / "images/val").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"the folder .*/images/val is missing"):
        imagenet.read(str(tmp_path))
    fill(tmp_path / "images/val", "ILSVRC2012_val_1.JPEG")
    with pytest.raises(UserError, match="val must hold a folder for each class, and has none"):
        imagenet.read(str(tmp_path))
