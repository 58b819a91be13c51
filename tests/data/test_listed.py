import re

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from src.data.images import Item
from src.data.listed import read_list
from src.errors import UserError
from tests.data.test_folder import fill, read, touch


def table(root, *lines):
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    return root / "list.csv"


def parquet_table(root, **columns):
    parquet.write_table(pyarrow.table(columns), root / "list.parquet")
    return root / "list.parquet"


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
    "kind", [list, pyarrow.array, lambda v: pyarrow.array(v).dictionary_encode()]
)
def test_a_parquet_file_lists_the_same_as_a_csv_file(tmp_path, kind):
    fill(tmp_path, {"a": 10, "b": 10})
    paths = [f"{label}/{n:03d}.jpg" for label in "ab" for n in range(10)]
    splits = ["train", "test"] * 10
    rows = [f"{p},{p[0]},{s}" for p, s in zip(paths, splits, strict=True)]
    expected = read(csv_file=table(tmp_path, "path,label,split", *rows))
    labels = kind([path[0] for path in paths])
    listed = parquet_table(tmp_path, note=[0.5] * 20, split=kind(splits), label=labels, path=paths)
    found = read(csv_file=listed)
    assert found == expected
    undivided = read(csv_file=parquet_table(tmp_path, path=paths, label=labels))
    assert undivided.splits == read(tmp_path).splits


def test_labels_of_a_parquet_file_may_be_integers(tmp_path, caplog):
    touch(tmp_path, "1.jpg", "2.jpg")
    listed = parquet_table(
        tmp_path, path=["1.jpg", "2.jpg"], label=np.int8([7, 10]), split=["test", "test"]
    )
    assert read(csv_file=listed).class_names == ["10", "7"]
    assert "says nothing to CLIP" in caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.jpg"]}, "must have the columns path and label, and may have split; it has p"),
        ({"path": ["a.jpg"], "label": [None]}, "the column label holds null, not text"),
        ({"path": ["a.jpg"], "label": [0.5]}, "the column label holds double, not text"),
        ({"path": ["a.jpg", None], "label": ["x", "y"]}, "row 1 has no path: give one"),
        ({"path": ["a.jpg", "b.jpg"], "label": ["x", None]}, "row 1 has no label: give one"),
        ({"path": ["a.jpg"], "label": ["x"], "split": ["dev"]}, "row 0: the split 'dev' is none"),
        ({"path": ["a.jpg", "c.jpg"], "label": ["x", "y"]}, "row 1: the image"),
        ({"path": ["a.jpg", "a.jpg"], "label": ["x", "y"]}, "row 1 lists a.jpg once more"),
    ],
)
def test_a_malformed_parquet_file_is_refused(tmp_path, columns, message):
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read(csv_file=parquet_table(tmp_path, **columns))
    assert "list.parquet" in str(raised.value)


@pytest.mark.parametrize("content", [None, b"", b"path,label\na.jpg,cat\n", b"PAR1" * 4])
def test_a_file_that_is_no_parquet_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "list.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*list\.parquet: .*dataset\.csv"):
        read(csv_file=tmp_path / "list.parquet")


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("https://me:pass@host.org/a.jpg?token=secret", "by `wget -x -i ADDRESSES.txt`, and list"),
        ("http://host.org?token=secret", "by `wget"),
        ("s3://host.org/secret/a.jpg", "by `aws s3 sync"),
        ("gs://host.org/secret/a.jpg", "by `gcloud storage"),
        ("hf://host.org/secret/a.jpg", "by `hf download"),
        ("file:///secret.jpg", "Put the files on this machine, and list their paths below"),
        ("http://[secret", "by `wget"),
    ],
)
def test_an_address_is_refused_with_the_way_to_fetch_it(tmp_path, path, remedy):
    touch(tmp_path, "a.jpg")
    listed = table(tmp_path, "path,label", "a.jpg,cat", f"{path},cat")
    with pytest.raises(UserError, match=re.escape(remedy)) as raised:
        read_list(listed, tmp_path)
    message = str(raised.value)
    assert f"list.csv, line 3: the path is an address ({path.partition('://')[0]}://" in message
    assert "host.org/..." in message or "host" not in path
    assert "pass" not in message
    assert "secret" not in message.replace(str(tmp_path), "") or path == "http://[secret"
