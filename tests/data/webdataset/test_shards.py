"""Which shards a pattern or a folder names."""

from pathlib import Path

import pytest

from src.data.webdataset.shards import UNDIVIDED, expanded, find
from src.errors import UserError


def names(found):
    return {split: [shard.shown for shard in shards] for split, shards in found.items()}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a.tar", ["a.tar"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{8..11}.tar", ["8.tar", "9.tar", "10.tar", "11.tar"]),
        ("{0..1}-{x,y}.tar", ["0-x.tar", "0-y.tar", "1-x.tar", "1-y.tar"]),
        ("http://h/{0..1}.tar?k=1", ["http://h/0.tar?k=1", "http://h/1.tar?k=1"]),
    ],
)
def test_braces_are_written_out(pattern, found):
    assert expanded(pattern, "dataset.path") == found


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{3..1}.tar", "counts from 3 to 1"),
        ("{0..999999999}.tar", "1,000,000,000 numbers"),
        ("{0..999}{0..999}.tar", "names 1,000,000 shards"),
        ("{a..c}.tar", r"is neither \{000..099\} nor \{a,b\}"),
        ("http://u:secret@h/{x}.tar?key=secret", r"dataset.path=http://\*\*\*@h/\{x\}.tar\?\*\*\*"),
    ],
)
def test_other_braces_are_refused(pattern, message):
    with pytest.raises(UserError, match=message) as refused:
        expanded(pattern, "dataset.path")
    assert "secret" not in str(refused.value)


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["test/0.tar", "train/10.tar", "train/9.tar", "train/x.txt"],
         {"test": ["test/0.tar"], "train": ["train/9.tar", "train/10.tar"]}),
        (["validation/0.tar", "test/0.tar", "notes/a.md"],
         {"test": ["test/0.tar"], "val": ["validation/0.tar"]}),
        (["test-0.tar", "train-0.tar", "val_0.tar"],
         {"test": ["test-0.tar"], "train": ["train-0.tar"], "val": ["val_0.tar"]}),
        (["0.tar", "1.tar", ".hidden.tar"], {UNDIVIDED: ["0.tar", "1.tar"]}),
        (["part-{0}.tar"], {UNDIVIDED: ["part-{0}.tar"]}),
    ],
)  # fmt: skip
def test_a_folder_says_what_belongs_to_which_split(tmp_path, files, found):
    touch(tmp_path, *files)
    below = {split: [f"{tmp_path}/{one}" for one in of_split] for split, of_split in found.items()}
    assert names(find(str(tmp_path), {})) == below


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no shard"),
        (["a.md"], "holds no shard"),
        (["test/0.tar", "extra/0.tar"], "call the folders train, val, test"),
        (["val/0.tar", "valid/0.tar"], "call the folders train, val, test"),
        (["test/0.tar", "0.tar"], "not clear what split they belong to: .*0.tar"),
        (["test-0.tar", "more-0.tar"], "not clear what split they belong to: .*more-0.tar"),
        (["0.tar.gz"], r"0.tar.gz is compressed, .*gunzip"),
        (["test/0.tgz"], "compressed"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=message):
        find(str(tmp_path), {})


def test_splits_are_named_one_by_one(tmp_path):
    touch(tmp_path, "a-0.tar", "a-10.tar", "a-9.tar", "b.tar")
    split = {"train": f"{tmp_path}/a-*.tar", "val": None, "test": [f"{tmp_path}/b.tar", "c.tar"]}
    found = names(find(None, split))
    assert [Path(one).name for one in found["train"]] == ["a-0.tar", "a-9.tar", "a-10.tar"]
    assert [Path(one).name for one in found["test"]] == ["b.tar", "c.tar"]
    assert "val" not in found


@pytest.mark.parametrize(
    ("path", "split", "message"),
    [
        (None, {}, "where are your shards"),
        ("x.tar", {"test": "y.tar"}, "exclude each other"),
        (None, {"tset": "y.tar"}, "dataset.split.tset: there are the splits train, val, test"),
        (None, {"test": "/nowhere/*.tar"}, r"there is no file /nowhere/\*.tar"),
        (None, {"test": []}, "dataset.split.test names no shard"),
        ("ftp://u:secret@h/x.tar", {}, r"ftp://\*\*\*@h/x.tar is neither http nor https"),
        ("https://h/x.tar.gz?key=secret", {}, r"https://h/x.tar.gz\?\*\*\* is compressed"),
    ],
)
def test_a_mistake_is_told(path, split, message):
    with pytest.raises(UserError, match=message) as refused:
        find(path, split)
    assert "secret" not in str(refused.value)
