"""CLIP_benchmark's layout, and its repositories, which a server on this machine stands for."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from src.data.webdataset import snapshot
from src.data.webdataset.clip_benchmark import read
from src.errors import UserError
from tests.data.webdataset.making import shade, shards

COMMITS = {None: "a" * 40, "v1": "b" * 40, "b" * 40: "b" * 40}


def make(root, train=(10, 5), test=(4,)):
    """Write a dataset of two classes as CLIP_benchmark's builder does."""
    root.mkdir(parents=True, exist_ok=True)
    for split, counts, first in (("train", train, 0), ("test", test, 100)):
        if counts:
            shards(root / split, *counts, first=first)
            (root / split / "nshards.txt").write_text(f"{len(counts)}\n")
    (root / "classnames.txt").write_text("ant\nbee\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\n{c}\n")
    return root


def opened(root, store, revision=None):
    return read(str(root), "vtab/x", revision, "cls", 0, str(store))


def test_the_layout_is_read_as_it_is(tmp_path):
    images = opened(make(tmp_path / "x"), tmp_path)
    assert images.class_names == ["ant", "bee"]
    assert {split: len(items) for split, items in images.splits.items()} == {
        "train": 13, "val": 2, "test": 4,
    }  # fmt: skip
    assert [shade(images, item) for item in images.splits["test"]] == [100, 101, 102, 103]
    assert images.notes == ["val is 20% of each class of train, drawn with dataset.split_seed=0"]


def test_test_images_are_enough(tmp_path):
    images = opened(make(tmp_path / "x", train=()), tmp_path)
    assert [len(images.splits[split]) for split in ("train", "val", "test")] == [0, 0, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "classnames.txt").unlink(), r"cannot read .*classnames.txt"),
        (lambda root: (root / "classnames.txt").write_text("ant\n"), r"'s0001.png' .* is 1, and"),
        (lambda root: (root / "test/nshards.txt").unlink(), r"nshards.txt is missing. Run `python"),
        (lambda root: (root / "test/nshards.txt").write_text("x"), "'x', no number of shards"),
        (lambda root: (root / "test/nshards.txt").write_text("2"), r"the shard .*test/1.tar"),
        (lambda root: (root / "dataset_type.txt").write_text("retrieval\n"), "is for retrieval"),
        (lambda root: (root / "dataset_type.txt").write_text("multilabel"), "is for multilabel"),
        (lambda root: (root / ".source.json.fetching").touch(), "was not fetched to its end. Run"),
        (lambda root: (root / "source.json").write_text("{"), "source.json is damaged"),
    ],
)
def test_what_is_not_whole_is_one_message(tmp_path, change, message):
    change(make(tmp_path / "x"))
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "x", tmp_path)


def test_what_was_not_fetched_says_how(tmp_path):
    with pytest.raises(UserError, match=r"Run `python -m src.prepare .* dataset.task=vtab/x`"):
        opened(tmp_path / "x", tmp_path)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stand for the Hub's client: whatever it is asked for, it writes a dataset."""
    calls, fault = [], SimpleNamespace(error=None, halfway=False)

    def dataset_info(_, name, revision, timeout):
        if fault.error:
            raise fault.error
        return SimpleNamespace(sha=COMMITS[revision])

    def download(name, repo_type, revision, local_dir):
        calls.append((name, repo_type, revision))
        make(local_dir, test=() if fault.halfway else (4,))
        if fault.halfway:
            raise ConnectionError("gone")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return SimpleNamespace(calls=calls, fault=fault, root=tmp_path / "vtab/x")


def test_a_repository_is_fetched_once_and_its_commit_recorded(hub, tmp_path):
    for _ in range(2):
        snapshot.fetch("owner/wds_x", None, hub.root)
    assert hub.calls == [("owner/wds_x", "dataset", "a" * 40)]
    assert json.loads((hub.root / "source.json").read_text())["commit"] == "a" * 40
    images = opened(hub.root, tmp_path)
    assert images.notes[1] == f"fetched from owner/wds_x, revision {'a' * 40}"
    with pytest.raises(UserError, match=r"holds revision a{40} .* dataset.revision=v1"):
        opened(hub.root, tmp_path, "v1")
    snapshot.fetch("owner/wds_x", "v1", hub.root)
    assert hub.calls[1:] == [("owner/wds_x", "dataset", "b" * 40)]
    for revision in ("v1", "b" * 40, None):
        assert "b" * 40 in opened(hub.root, tmp_path, revision).notes[1]


def test_what_was_interrupted_goes_on(hub, tmp_path):
    hub.fault.halfway = True
    with pytest.raises(UserError, match=r"cannot fetch .*datasets/o/wds_x.*ConnectionError: gone"):
        snapshot.fetch("o/wds_x", None, hub.root)
    with pytest.raises(UserError, match="not fetched to its end"):
        opened(hub.root, tmp_path)
    hub.fault.halfway = False
    snapshot.fetch("o/wds_x", None, hub.root)
    assert len(opened(hub.root, tmp_path).splits["test"]) == 4


def test_a_folder_that_was_filled_by_hand_stays(hub):
    make(hub.root)
    snapshot.fetch("o/wds_x", None, hub.root)
    assert not hub.calls


def response(kind):
    error = kind.__new__(kind)
    Exception.__init__(error, "no")
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("no route"), r"cannot fetch .* where there is a network.*OSError: no route"),
        (response(HFValidationError), "names no dataset: correct dataset.task"),
        (response(RepositoryNotFoundError), r"there is no .*/datasets/o/wds_x"),
    ],
)
def test_a_failure_is_one_message_and_leaves_nothing(hub, error, message):
    hub.fault.error = error
    with pytest.raises(UserError, match=message):
        snapshot.fetch("o/wds_x", None, hub.root)
    assert not hub.root.exists()
