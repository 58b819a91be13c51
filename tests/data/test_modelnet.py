import pytest

from src.data import modelnet
from src.errors import UserError
from tests import replica_3d
from tests.cli import refused, run
from tests.replica_3d import MODELNET10


@pytest.fixture
def root(tmp_path):
    return replica_3d.modelnet(tmp_path, points=8)


def test_classes_are_those_of_shape_names_in_its_order(root):
    dataset = modelnet.read(str(root), views=6, points=1024)
    assert list(dataset.class_names) == ["c", "a", "b"]
    assert {split: len(items) for split, items in dataset.splits.items()} == {
        "train": 24,
        "val": 6,
        "test": 15,
    }
    assert [item.label for item in dataset.splits["test"]] == [0, 1, 2] * 5
    assert dataset.splits["test"][4].key == "ply_data_test0.h5:4"


def test_modelnet10_is_a_part_of_modelnet40_with_labels_of_its_own(tmp_path):
    names = ["airplane", *reversed(MODELNET10), "xbox"]
    root = str(replica_3d.modelnet(tmp_path, names, points=8))
    whole, part = modelnet.read(root, 6, 1024), modelnet.read(root, 6, 1024, MODELNET10)
    assert list(part.class_names) == list(MODELNET10)
    for split in ("train", "val", "test"):
        kept = [
            (item.key, names[item.label])
            for item in whole.splits[split]
            if names[item.label] in MODELNET10
        ]
        assert kept == [(item.key, MODELNET10[item.label]) for item in part.splits[split]]


def test_no_more_points_are_used_than_there_are(root):
    assert modelnet.read(str(root), 6, 5).points == 5
    assert modelnet.read(str(root), 6, 1024).points == 8
    for wrong in (0, "many"):
        with pytest.raises(UserError, match=rf"dataset\.points={wrong}"):
            modelnet.read(str(root), 6, wrong)


def test_missing_and_malformed_lists_are_the_users_mistake(root):
    with pytest.raises(UserError, match="names no class 'sofa'"):
        modelnet.read(str(root), 6, 1024, ["a", "sofa"])
    (root / "shape_names.txt").write_text("c\na\na\n")
    with pytest.raises(UserError, match=r"shape_names\.txt names a class twice"):
        modelnet.read(str(root), 6, 1024)
    (root / "shape_names.txt").write_text("\n")
    with pytest.raises(UserError, match=r"shape_names\.txt is empty"):
        modelnet.read(str(root), 6, 1024)
    (root / "shape_names.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match=r"shape_names\.txt is not text"):
        modelnet.read(str(root), 6, 1024)
    (root / "shape_names.txt").unlink()
    with pytest.raises(UserError, match=r"shape_names\.txt is missing.*src\.prepare"):
        modelnet.read(str(root), 6, 1024)
    with pytest.raises(UserError, match=r"dataset folder .* is missing.*DATA_ROOT"):
        modelnet.read(str(root / "elsewhere"), 6, 1024)


def test_prepare_shows_the_splits_and_names_what_is_wrong(root, tmp_path):
    done = run("src.prepare", "dataset=modelnet40", f"paths.data={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    assert all(
        [*row] in rows for row in (("train", "24", "3"), ("val", "6", "3"), ("test", "15", "3"))
    )
    (root / "shape_names.txt").write_text("c\na\n")
    message = refused(run("src.prepare", "dataset=modelnet40", f"paths.data={tmp_path}"))
    assert "ply_data_train0.h5 gives row 2 the label 2, but the 2 classes are 0 to 1" in message
