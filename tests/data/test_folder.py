import io
import json
import random
import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.data import folder
from src.data.images import Item, decode
from src.errors import UserError


def touch(root, *keys):
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).touch()


def fill(root, sizes):
    touch(root, *(f"{name}/{n:03d}.jpg" for name, size in sizes.items() for n in range(size)))


def read(path=None, csv_file=None, class_names=None, split_seed=0, depth=1):
    given = (value and str(value) for value in (path, csv_file, class_names))
    return folder.read(*given, split_seed, depth)


def keys(dataset):
    return {split: [item.key for item in items] for split, items in dataset.splits.items()}


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(3, 25), min_size=2),
    seed=st.integers(0, 9),
)
def test_undivided_images_are_divided_class_by_class(sizes, seed):
    with TemporaryDirectory() as root:
        fill(Path(root), sizes)
        dataset = read(root, split_seed=seed)
    every = [item for items in dataset.splits.values() for item in items]
    assert len(set(every)) == len(every) == sum(sizes.values())
    assert dataset.class_names == sorted(sizes)
    for items in dataset.splits.values():
        assert list(items) == sorted(items, key=lambda item: item.key)
        assert all(item.key.startswith(dataset.class_names[item.label] + "/") for item in items)
    per_class = {split: Counter(i.label for i in s) for split, s in dataset.splits.items()}
    for label, name in enumerate(dataset.class_names):
        n = sizes[name]
        shares = [per_class[split][label] for split in ("train", "val", "test")]
        assert min(shares) >= 1
        assert abs(shares[0] - 0.5 * n) < 1
        assert abs(shares[1] - 0.2 * n) < 1
        assert abs(shares[2] - 0.3 * n) < 2


def test_the_division_depends_on_the_seed_and_not_on_the_file_system(tmp_path, monkeypatch):
    fill(tmp_path, {"a": 20, "b": 20})
    first = keys(read(tmp_path))
    assert keys(read(tmp_path, split_seed=1)) != first
    a, b = ({key[2:] for key in first["test"] if key[0] == name} for name in "ab")
    assert a != b
    in_order = folder._visible

    def shuffled(path):
        found = list(in_order(path))
        random.Random(7).shuffle(found)
        return iter(found)

    monkeypatch.setattr(folder, "_visible", shuffled)
    assert keys(read(tmp_path)) == first


def test_a_further_class_does_not_change_the_division_of_the_others(tmp_path):
    fill(tmp_path, {"b": 20, "c": 20})
    before = keys(read(tmp_path))
    fill(tmp_path, {"a": 20})
    after = keys(read(tmp_path))
    assert {s: [k for k in some if k[0] != "a"] for s, some in after.items()} == before


def test_the_folders_train_val_and_test_are_taken_as_they_are(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/ape/1.JPEG", "val/cat/2.png", "test/cat/3.WebP")
    touch(tmp_path, "test/dog/1.bmp", "test/dog/2.TIF", "test/dog/3.tiff", "9.jpg")
    touch(tmp_path, "test/dog/notes.txt", "test/dog/._1.jpg", "test/.cache/1.jpg", "test/x.jpg")
    dataset = read(tmp_path)
    assert dataset.class_names == ["ape", "cat", "dog"]
    assert dataset.splits == {
        "train": [Item("train/ape/1.JPEG", 0), Item("train/cat/1.jpg", 1)],
        "val": [Item("val/cat/2.png", 1)],
        "test": [
            Item("test/cat/3.WebP", 1), Item("test/dog/1.bmp", 2), Item("test/dog/2.TIF", 2),
            Item("test/dog/3.tiff", 2),
        ],
    }  # fmt: skip


def test_without_val_a_fifth_of_each_class_of_train_becomes_val(tmp_path):
    fill(tmp_path / "train", {"a": 20, "b": 2, "c": 1})
    fill(tmp_path / "test", {"a": 4})
    splits = read(tmp_path).splits
    assert Counter(item.label for item in splits["train"]) == {0: 16, 1: 1, 2: 1}
    assert Counter(item.label for item in splits["val"]) == {0: 4, 1: 1}
    assert not set(splits["train"]) & set(splits["val"])
    assert (
        splits["val"] == read(tmp_path).splits["val"] != read(tmp_path, split_seed=1).splits["val"]
    )


def test_only_test_images_are_a_dataset_too(tmp_path):
    fill(tmp_path / "test", {"a": 1, "b": 1})
    assert {split: len(items) for split, items in read(tmp_path).splits.items()} == {
        "train": 0, "val": 0, "test": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([], "the folder {root} is missing: set dataset.path"),
        (["1.jpg"], "in any class folder of {root}"),
        (
            ["train/cat/1.jpg", "val/cat/1.jpg"],
            "in '{root}/train', '{root}/val'. dataset.path must",
        ),
        (["cat/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/1.pdf"], "in '{root}/dog', but 1 .pdf."),
        (["cat/1.jpg", "cat/more/2.jpg"], "there are folders in it: '{root}/cat/more'"),
        (["cat/1.jpg", "cat/more/2.jpg"], "by dataset.depth=2; if not, move their images up"),
        (["pets/cat/1.jpg", "pets/dog/2.jpg"], "say by dataset.depth how deep the classes lie"),
        (["test/cat/1.jpg", "validation/cat/1.jpg"], "'{root}/validation' beside it"),
        (["test/cat/1.jpg"], "one class, 'cat': there must be two"),
        (["test/cat/1.jpg", "train/dog/notes.txt"], "in '{root}/train/dog', but 1 .txt."),
        (["cat/1.jpg", "cat/2.jpg"], "too few images of 'cat (2)' to divide"),
        (["test/notes.txt", "train/cat/1.jpg"], "{root} has no test images"),
    ],
)
def test_folders_that_are_no_dataset_are_refused(tmp_path, present, message):
    root = tmp_path / "images"
    touch(root, *present)
    with pytest.raises(UserError, match=re.escape(message.format(root=root))):
        read(root)


def test_a_dataset_without_path_or_table_says_what_to_give():
    with pytest.raises(UserError, match=r"dataset\.path=FOLDER.*dataset\.csv=FILE"):
        read()


def test_a_seed_that_is_none_is_refused(tmp_path):
    fill(tmp_path, {"a": 3, "b": 3})
    with pytest.raises(UserError, match=r"dataset\.split_seed=abc is not an integer"):
        read(tmp_path, split_seed="abc")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.json", json.dumps({"n01": "tench, a fish", "n02": "great white", "n03": "unused"})),
        ("n.txt", "n02 great white\r\n\nn01  tench, a fish \n"),
    ],
)
def test_class_names_come_from_a_file(tmp_path, name, content):
    fill(tmp_path / "images", {"n02": 3, "n01": 3})
    (tmp_path / name).write_text(content)
    dataset = read(tmp_path / "images", class_names=tmp_path / name)
    assert dataset.class_names == ["tench, a fish", "great white"]
    assert dataset.splits["test"][0].key.startswith("n01/")


def test_every_file_that_is_left_out_is_counted_by_its_ending_in_one_line(tmp_path, caplog):
    fill(tmp_path, {"a": 3, "b": 3})
    touch(tmp_path, "a/more.jfif", "a/1.PPM", "b/2.heic", "b/1.HEIC", "b/notes.txt", "b/.hidden")
    touch(tmp_path, "top.jpg", "README.md", "a/none")
    (tmp_path / "a/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    dataset = read(tmp_path)
    keys = {item.key for items in dataset.splits.values() for item in items}
    assert {"a/more.jfif", "a/1.PPM"} <= keys
    assert len(keys) == 8
    (record,) = caplog.records
    said = record.getMessage()
    for part in (
        f"left out of {tmp_path}: 2 .heic, 1 .", "1 .txt", "1 without ending", "1 .jpg",
        "as 'a/gone.jpg' (read are .", "1 outside of the class folders, as 'top.jpg'",
    ):  # fmt: skip
        assert part in said
    assert "hidden" not in said
    assert "README" not in said


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, caplog):
    fill(tmp_path / "test", {"a": 3, "b": 3})
    touch(tmp_path, "test/README.txt", "LICENSE")
    read(tmp_path)
    assert not caplog.records


def test_images_of_every_ending_can_be_decoded():
    for ending in folder.EXTENSIONS:
        content = io.BytesIO()
        Image.new("RGB", (4, 4)).save(content, folder.ENDINGS[ending])
        assert decode(content, ending).size == (4, 4)


@pytest.mark.parametrize("top", ["", "test/"])
def test_classes_may_lie_deeper(tmp_path, top):
    files = ["pets/dogs/husky/1.jpg", "pets/cats/manx/1.jpg", "wild/dogs/fox/1.jpg"]
    touch(tmp_path, *(top + file.replace("1.jpg", f"{n}.jpg") for file in files for n in range(3)))
    dataset = read(tmp_path, depth=3)
    assert dataset.class_names == ["fox", "husky", "manx"]
    found = {item.label: item.key for item in dataset.splits["test"]}
    assert found[1].startswith(f"{top}pets/dogs/husky/")


def test_one_class_may_lie_in_other_folders_of_each_split(tmp_path):
    touch(tmp_path, "train/dogs/husky/1.jpg", "test/canine/husky/1.jpg", "test/cats/manx/1.jpg")
    dataset = read(tmp_path, depth=2)
    assert dataset.class_names == ["husky", "manx"]
    assert dataset.splits["train"] == [Item("train/dogs/husky/1.jpg", 0)]


@pytest.mark.parametrize(
    ("present", "depth", "message"),
    [
        (["x/cat/1.jpg", "y/cat/1.jpg"], 2, "the same name: '{root}/x/cat', '{root}/y/cat'. Ren"),
        (["x/cat/1.jpg", "y/1.jpg"], 2, "do not lie in a folder 2 levels down: '{root}/y/1.jpg'"),
        (["x/cat/1.jpg", "x/cat/a/1.jpg"], 2, "'{root}/x/cat/a'. If those are the classes, say"),
        (["x/cat/1.jpg", "x/cat/a/1.jpg"], 2, "dataset.depth=3; if not"),
        (["cat/1.jpg"], 2, "in any class folder of {root}"),
        (["cat/1.jpg"], 0, "dataset.depth=0 is not an integer from 1 up"),
        (["cat/1.jpg"], "deep", "dataset.depth=deep is not an integer"),
    ],
)
def test_a_depth_that_does_not_fit_is_refused(tmp_path, present, depth, message):
    touch(tmp_path, *present)
    with pytest.raises(UserError, match=re.escape(message.format(root=tmp_path))):
        read(tmp_path, depth=depth)


def test_a_list_has_no_depth(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.depth says where folders lie"):
        read(csv_file=tmp_path / "list.csv", depth=2)


def test_a_folder_that_cannot_be_listed_is_one_message(tmp_path):
    fill(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/round: Too many"):
        read(tmp_path)
