import json
import random
import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data import folder
from src.data.images import Item
from src.errors import UserError


def touch(root, *keys):
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).touch()


def fill(root, sizes):
    touch(root, *(f"{name}/{n:03d}.jpg" for name, size in sizes.items() for n in range(size)))


def read(path=None, csv_file=None, class_names=None, split_seed=0):
    given = (value and str(value) for value in (path, csv_file, class_names))
    return folder.read(*given, split_seed)


def keys(dataset):
    return {split: [item.key for item in items] for split, items in dataset.splits.items()}


def table(root, *lines):
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    return root / "list.csv"


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
    in_order = Path.iterdir

    def shuffled(path):
        found = list(in_order(path))
        random.Random(7).shuffle(found)
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", shuffled)
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
        (["cat/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/1.pdf"], "in '{root}/dog'."),
        (["cat/1.jpg", "cat/more/2.jpg"], "there are folders in it: '{root}/cat/more'"),
        (["test/cat/1.jpg", "validation/cat/1.jpg"], "'{root}/validation' beside it"),
        (["test/cat/1.jpg"], "one class, 'cat': there must be two"),
        (["test/cat/1.jpg", "train/dog/notes.txt"], "in '{root}/train/dog'."),
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


def test_a_table_names_paths_labels_and_splits(tmp_path):
    touch(tmp_path, "x/1.jpg", "x/2.jpg", "x/3, new.jpg", "y.jpg")
    lines = [
        "label,path,split,note", "wolf,x/1.jpg,train,", 'ape,"x/3, new.jpg",test,old',
        "ape,x/2.jpg,train,", "wolf,./y.jpg, val ,", "",
    ]  # fmt: skip
    dataset = read(csv_file=table(tmp_path, *lines))
    assert (dataset.root, dataset.class_names) == (tmp_path, ["ape", "wolf"])
    assert dataset.splits == {
        "train": [Item("x/2.jpg", 0), Item("x/1.jpg", 1)],
        "val": [Item("y.jpg", 1)],
        "test": [Item("x/3, new.jpg", 0)],
    }


def test_the_paths_of_a_table_start_at_the_folder_that_is_given(tmp_path):
    fill(tmp_path / "images", {"a": 10, "b": 10})
    (tmp_path / "tables").mkdir()
    rows = [f"a/{n:03d}.jpg,zebra" for n in range(10)]
    rows += [f"{tmp_path}/images/b/{n:03d}.jpg,ape" for n in range(10)]  # absolute, but inside it
    dataset = read(tmp_path / "images", table(tmp_path / "tables", "\ufeffpath,label", *rows))
    assert dataset.root == tmp_path / "images"
    assert {split: len(items) for split, items in dataset.splits.items()} == {
        "train": 10, "val": 4, "test": 6,
    }  # fmt: skip
    assert dataset.splits["test"][0].key.startswith("b/")


def test_a_seed_that_is_none_is_refused(tmp_path):
    fill(tmp_path, {"a": 3, "b": 3})
    with pytest.raises(UserError, match=r"dataset\.split_seed=abc is not an integer"):
        read(tmp_path, split_seed="abc")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "must begin with the header path,label or path,label,split, not with ''"),
        (["a.jpg,cat"], "not with 'a.jpg,cat'"),
        (["path,label"], "has no test images"),
        (["path,label,split", "a.jpg,cat,train"], "has no test images"),
        (["path,label", "a.jpg,cat", "b.jpg,cat"], "too few images of 'cat (2)' to divide"),
        (["path,label,split", "a.jpg,cat,tset"], "line 2: the split 'tset' is none of train, val"),
        (["path,label,split", "a.jpg,cat,"], "line 2: the split '' is none of"),
        (["path,label", "a.jpg, "], "line 2 has no label: name the class of a.jpg"),
        (["path,label", "a.jpg"], "line 2 does not have the header's 2 fields"),
        (["path,label", "a,b.jpg,cat"], "line 2 does not have the header's 2 fields"),
        (
            ["path,label", "a.jpg,cat", "../a.jpg,cat"],
            "line 3: the path ../a.jpg does not",
        ),
        (["path,label", "/a.jpg,cat"], "line 2: the path /a.jpg does not lead into"),
        (["path,label", "c.jpg,cat"], "c.jpg is missing"),
        (["path,label", ",cat"], "is missing"),
        (["path,label", "a.jpg,cat", "./a.jpg,dog"], "line 3 lists a.jpg once more"),
        (["path,label", '"a.jpg,cat'], "unexpected end of data. Mend the CSV file"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path, lines, message):
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read(csv_file=table(tmp_path, *lines))
    assert "list.csv" in str(raised.value)


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("n.json", '{"n1": "tench"}', "no class name for 'n01' (did you mean 'n1'?)"),
        ("n.json", '{"n01": ""}', "gives 'n01' no class name"),
        ("n.json", '{"n01": 3}', "gives 'n01' no class name"),
        ("n.json", '["tench"]', "must hold a JSON object"),
        ("n.txt", "n01\n", "gives 'n01' no class name"),
        ("n.txt", "tench\n", "no class name for 'n01'"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path, name, content, message):
    fill(tmp_path / "images", {"n01": 3})
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read(tmp_path / "images", class_names=tmp_path / name)
    assert name in str(raised.value)


@pytest.mark.parametrize(
    ("labels", "names"), [(["a_b", "a b"], {}), (["1", "2"], {"1": "crane", "2": "crane"})]
)
def test_two_classes_of_one_name_are_refused(tmp_path, labels, names):
    fill(tmp_path / "images", dict.fromkeys([*labels, "other"], 3))
    (tmp_path / "n.json").write_text(json.dumps({"other": "other"} | names))
    with pytest.raises(UserError, match="several classes have the same name in a prompt"):
        read(tmp_path / "images", class_names=tmp_path / "n.json" if names else None)


def test_a_number_of_wordnet_as_a_class_name_is_pointed_out(tmp_path, caplog):
    fill(tmp_path, {"n01855672": 3, "n01440764": 3})
    read(tmp_path)
    assert "'a photo of a n01440764.' says nothing to CLIP" in caplog.text
    assert "dataset.class_names" in caplog.text


def test_files_that_are_left_out_are_named(tmp_path, caplog):
    fill(tmp_path, {"a": 3, "b": 3})
    touch(tmp_path, "a/more.jfif", "a/camera.heic", "b/.hidden")
    dataset = read(tmp_path)
    assert "a/more.jfif" in {item.key for items in dataset.splits.values() for item in items}
    assert "left out: 'a/camera.heic'" in caplog.text
    assert "hidden" not in caplog.text
