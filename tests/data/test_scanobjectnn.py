import pytest

from src.config import compose
from src.data import scanobjectnn
from src.errors import UserError
from tests import replica_3d
from tests.cli import refused, run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return replica_3d.scanobjectnn(tmp_path_factory.mktemp("data"), points=8)


@pytest.mark.parametrize(
    ("variant", "file"),
    [
        ("pb_t50_rs", "main_split/test_objectdataset_augmentedrot_scale75.h5"),
        ("obj_bg", "main_split/test_objectdataset.h5"),
        ("obj_only", "main_split_nobg/test_objectdataset.h5"),
    ],
)
def test_each_variant_has_files_of_its_own(root, variant, file):
    dataset = scanobjectnn.read(str(root), variant, views=6, points=1024)
    assert len(dataset.class_names) == 15
    sizes = {split: len(items) for split, items in dataset.splits.items()}
    assert sizes == {"train": 60, "val": 15, "test": 75}
    assert {item.key.rpartition(":")[0] for item in dataset.splits["test"]} == {file}
    assert dataset.load(dataset.splits["test"][0]).shape == (8, 3)


def test_the_default_is_the_hardest_variant():
    assert compose(["dataset=scanobjectnn"]).dataset.reader.variant == "pb_t50_rs"


def test_an_unknown_variant_and_a_missing_file_are_the_users_mistake(root, tmp_path):
    with pytest.raises(UserError, match=r"variant=obj is none of pb_t50_rs, obj_bg, obj_only"):
        scanobjectnn.read(str(root), "obj", 6, 1024)
    with pytest.raises(UserError, match=r"training_objectdataset\.h5 is missing.*accepts their"):
        scanobjectnn.read(str(tmp_path), "obj_bg", 6, 1024)


def test_prepare_says_where_to_get_it(tmp_path):
    message = refused(run("src.prepare", "dataset=scanobjectnn", f"paths.data={tmp_path}"))
    assert "must be put there by hand" in message
