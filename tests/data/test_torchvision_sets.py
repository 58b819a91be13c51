import os
import pickle
import re
import shutil
import struct
from functools import cache
from inspect import signature
from pathlib import Path

import h5py
import numpy as np
import pytest
from hydra.utils import get_method
from PIL import Image
from scipy.io import savemat

from src.config import build, compose
from src.data.images import DamagedImageError, MissingImageError
from src.errors import UserError
from tests import replica_torchvision as replica

NAMES = tuple(replica.MAKERS)
OF_ROWS = [name for name in NAMES if name not in ("gtsrb", "country211", "rendered_sst2")]
PLAIN = ("cifar10", "cifar100", "stl10", "mnist")
"""Sets whose pixels lie in their files as they are."""
LOSSY = ("country211",)


@cache
def composed(name):
    return compose([f"dataset={name}"]).dataset


def read(name, root, split_seed=0):
    reader = composed(name).reader
    values = {"root": str(root), "class_names": list(replica.LETTERS)}
    if "split_seed" in reader:
        values["split_seed"] = split_seed
    return build(reader, **values)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Give the folder and the dataset of each replica."""
    data = tmp_path_factory.mktemp("data")
    roots = {name: replica.make(name, data) for name in NAMES}
    return {name: (root, read(name, root)) for name, root in roots.items()}


@pytest.fixture
def copied(sets, tmp_path):
    """Copies the folder of a replica."""

    def copy(name):
        return Path(shutil.copytree(sets[name][0], tmp_path / name))

    return copy


def drawn(dataset, split, item):
    """Return which of the replica's images an item is, or None."""
    shown = np.asarray(dataset.load(item))
    size = len(shown)
    for row in range(3 * replica.COUNTS[split]):
        for grey in (False, True):
            image = replica.pixels(split, row, size, grey)
            if (image == (shown[..., 0] if grey else shown)).all():
                return row
    return None


@pytest.mark.parametrize("name", NAMES)
def test_every_image_has_its_pixels_its_class_and_its_split(name, sets):
    root, dataset = sets[name]
    assert list(dataset.class_names) == ["a", "b", "c"]
    assert {split: len(items) for split, items in dataset.splits.items()} == replica.SPLITS
    separate = "val" if name in ("pcam", "country211", "rendered_sst2") else "train"
    for split, of_images in (("train", "train"), ("val", separate), ("test", "test")):
        items = list(dataset.splits[split])
        assert np.bincount([item.label for item in items]).tolist() == [len(items) // 3] * 3
        if name not in LOSSY:
            rows = [drawn(dataset, of_images, item) for item in items]
            assert None not in rows
            assert len(set(rows)) == len(rows)
            assert [row % 3 for row in rows] == [item.label for item in items]
        assert all(str(root) in dataset.where(item) for item in items)
    if separate == "train" and name != "gtsrb":
        assert not {i.key for i in dataset.splits["train"]} & {i.key for i in dataset.splits["val"]}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_in_the_yaml_fits(name):
    dataset = composed(name)
    assert len(dataset.reader.class_names) == dataset.totals.classes
    assert len(set(dataset.reader.class_names)) == dataset.totals.classes
    for split, count in dataset.get("per_class", {}).items():
        assert count * dataset.totals.classes == dataset.totals[split]
    assert all(template.count("{}") == 1 for template in dataset.templates)


def test_resisc45_comes_from_the_hub():
    dataset = compose(["dataset=resisc45"]).dataset
    values = dict(dataset.reader)
    signature(get_method(values.pop("_target_"))).bind(**values)
    assert re.fullmatch("[0-9a-f]{40}", dataset.reader.revision)
    assert all(template.count("{}") == 1 for template in dataset.templates)


def test_the_published_splits_follow_from_the_published_counts():
    """Of CIFAR, STL-10 and the like, a fifth is held out; here of classes of other sizes."""
    from src.data.dividing import hold_out

    known = {
        "svhn": [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659],
        "mnist": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "fer2013": [3995, 436, 4097, 7215, 4830, 3171, 4965],
    }
    for name, sizes in known.items():
        val = hold_out(np.repeat(np.arange(len(sizes)), sizes), 0.2, 0).sum()
        totals = composed(name).totals
        assert (totals.val, totals.train) == (val, sum(sizes) - val)


@pytest.mark.parametrize("name", [name for name in NAMES if name in (*OF_ROWS, "gtsrb")])
def test_val_is_drawn_by_the_seed(name, sets):
    root, dataset = sets[name]
    if name == "pcam":
        assert not dataset.notes
        return
    assert read(name, root).splits == dataset.splits or name in OF_ROWS
    keys = [sorted(i.key for i in read(name, root, seed).splits["val"]) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]
    if name in OF_ROWS:
        assert dataset.notes == ["val: 20% of each class of train, dataset.split_seed=0"]


def test_a_seed_that_is_none_is_refused(sets):
    for name in ("cifar10", "gtsrb"):
        with pytest.raises(UserError, match=r"dataset\.split_seed=x is not an integer"):
            read(name, sets[name][0], split_seed="x")


def test_the_frames_of_a_track_stay_together(sets):
    _, dataset = sets["gtsrb"]
    tracks = {
        split: {(item.label, item.key.rpartition("_")[0]) for item in dataset.splits[split]}
        for split in ("train", "val")
    }
    assert (len(tracks["train"]), len(tracks["val"])) == (12, 3)
    assert not tracks["train"] & tracks["val"]


@pytest.mark.parametrize("name", OF_ROWS)
def test_another_process_can_read_the_same_rows(name, sets):
    _, dataset = sets[name]
    copy = pickle.loads(pickle.dumps(dataset))
    item = dataset.splits["test"][5]
    assert np.array_equal(copy.load(item), dataset.load(item))
    assert copy.fingerprint(copy.splits["val"]) == dataset.fingerprint(list(dataset.splits["val"]))


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_fingerprint_tells_rows_and_files_apart(name, copied):
    root = copied(name)
    dataset = read(name, root)
    found = {split: dataset.fingerprint(items) for split, items in dataset.splits.items()}
    assert len(set(found.values())) == 3
    file = dataset.sources["test"].paths[0]
    os.utime(file, (1, 1))
    assert dataset.fingerprint(dataset.splits["test"]) != found["test"]
    file.unlink()
    with pytest.raises(MissingImageError, match=str(file)):
        dataset.fingerprint(dataset.splits["test"])


@pytest.mark.parametrize("name", [name for name in OF_ROWS if name != "svhn"])
def test_a_file_that_vanishes_is_one_message(name, copied):
    dataset = read(name, copied(name))
    file = dataset.sources["test"].paths[0]
    file.unlink()
    with pytest.raises(MissingImageError, match=f"the image {file} is missing"):
        dataset.load(dataset.splits["test"][0])


@pytest.mark.parametrize("name", PLAIN)
def test_a_file_that_becomes_shorter_is_a_damaged_image(name, copied):
    dataset = read(name, copied(name))
    file = dataset.sources["test"].paths[-1]
    os.truncate(file, file.stat().st_size - 1)
    dataset.load(dataset.splits["test"][0])
    with pytest.raises(DamagedImageError, match=f"{file}:11: the file ends before it"):
        dataset.load(dataset.splits["test"][-1])


def test_a_damaged_row_of_an_hdf5_file_is_a_damaged_image(copied):
    root = copied("pcam")
    file = root / "camelyonpatch_level_2_split_test_x.h5"
    with h5py.File(file, "r+") as content:
        del content["x"]
        x = content.create_dataset("x", (12, 96, 96, 3), "u1", chunks=(1, 96, 96, 3), compression=1)
        x.id.write_direct_chunk((0, 0, 0, 0), b"no zlib")
    dataset = read("pcam", root)
    with pytest.raises(DamagedImageError, match=f"cannot decode the image {file}:0: "):
        dataset.load(dataset.splits["test"][0])


def test_a_matlab_file_that_is_damaged_later_is_a_damaged_image(copied):
    root = copied("svhn")
    dataset = read("svhn", root)
    replaced(2000, bytes(100))(root / "test_32x32.mat")
    with pytest.raises(DamagedImageError, match="it is no intact MATLAB file"):
        dataset.load(dataset.splits["test"][0])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (" ".join(["0"] * 2303), "it has 2,303 pixels, not 2,304"),
        (" ".join(["0"] * 2303 + ["256"]), "a pixel is not from 0 to 255"),
        (" ".join(["0"] * 2303 + ["-1"]), "a pixel is not from 0 to 255"),
        (" ".join(["0"] * 2303 + ["x"]), "invalid literal"),
    ],
)
def test_a_damaged_line_of_pixels_is_a_damaged_image(copied, pixels, message):
    file = copied("fer2013") / "fer2013.csv"
    lines = file.read_text().splitlines()
    lines[31] = f"0,{pixels},PublicTest"
    file.write_text("\n".join(lines))
    dataset = read("fer2013", file.parent)
    with pytest.raises(DamagedImageError, match=f"{file}:32: {message}"):
        dataset.load(dataset.splits["test"][0])


def cut(size):
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def replaced(start, content):
    def edit(path):
        with path.open("r+b") as file:
            file.seek(start)
            file.write(content)

    return edit


def written(content):
    return lambda path: path.write_bytes(content)


def matlab(**content):
    return lambda path: savemat(path, content, do_compression=True)


def hdf5(key, values):
    def write(path):
        path.unlink()
        with h5py.File(path, "w") as file:
            file[key] = values

    return write


ZEROS = np.zeros((4, 4, 3, 5), np.uint8)
TEST_X = "camelyonpatch_level_2_split_test_x.h5"
TEST_Y = "camelyonpatch_level_2_split_test_y.h5"
BATCH = "cifar-10-batches-bin/data_batch_3.bin"


@pytest.mark.parametrize(
    ("name", "file", "edit", "message"),
    [
        ("cifar10", BATCH, Path.unlink, "is missing. Run `python -m src.prepare dataset="),
        ("cifar10", BATCH, cut(-1), "is damaged: its 18,437 bytes are not one or more records of"),
        ("cifar10", BATCH, cut(0), "is damaged: its 0 bytes are not one or more records of 3,073"),
        ("cifar10", BATCH, replaced(3073, b"\3"), ", row 1: the label is 3, and the 3 classes are"),
        ("cifar100", "cifar-100-binary/test.bin", replaced(1, b"c"), "row 0: the label is 99, and"),
        ("stl10", "stl10_binary/test_y.bin", cut(-1), "has 11 labels, and there are 12 images"),
        ("stl10", "stl10_binary/test_y.bin", replaced(2, b"\0"), "row 2: the label is 0, and"),
        ("stl10", "stl10_binary/train_X.bin", cut(-5), "is damaged: its 829,435 bytes are not"),
        ("svhn", "test_32x32.mat", Path.unlink, "is missing. Run `python -m"),
        ("svhn", "test_32x32.mat", written(b""), "is damaged: it is no intact MATLAB file"),
        ("svhn", "test_32x32.mat", written(b"<html>" * 100), "is damaged: it is no intact MATLAB"),
        ("svhn", "test_32x32.mat", cut(300), "is damaged: it has no array y"),
        ("svhn", "test_32x32.mat", matlab(X=ZEROS), "is damaged: it has no array y"),
        ("svhn", "test_32x32.mat", matlab(X=ZEROS, y=[[1]]), "has 1 labels, and there are 5 i"),
        ("svhn", "test_32x32.mat", matlab(X=ZEROS[..., :1], y=[[3]]), "row 0: the label is 3, and"),
        ("mnist", "t10k-images-idx3-ubyte", Path.unlink, "is missing. Run `python -m"),
        ("mnist", "t10k-images-idx3-ubyte", cut(-1), "it has 9,423 bytes and"),
        ("mnist", "t10k-images-idx3-ubyte", replaced(0, b"\x1f\x8b"), "begins with 1f8b0803"),
        ("mnist", "t10k-labels-idx1-ubyte", cut(3), "no IDX file of bytes in 1 dimensions"),
        ("mnist", "t10k-labels-idx1-ubyte", replaced(9, b"\7"), "row 1: the label is 7, and the 3"),
        (
            "mnist",
            "t10k-labels-idx1-ubyte",
            written(struct.pack(">II", 2049, 2) + bytes(2)),
            "has 2 labels, and there are 12 images",
        ),
        ("fer2013", "fer2013.csv", Path.unlink, "is missing. Run `python -m"),
        ("fer2013", "fer2013.csv", written(b""), "must begin with emotion,pixels,Usage, not b''"),
        ("fer2013", "fer2013.csv", cut(24_000), "line 5: it is no emotion from 0 to 2, pixels and"),
        ("fer2013", "fer2013.csv", replaced(21, b"5"), "line 2: it is no emotion from 0 to 2"),
        ("fer2013", "fer2013.csv", cut(21), "has no images to train on"),
        ("pcam", TEST_X, Path.unlink, "is missing. Run `python -m"),
        ("pcam", TEST_X, cut(5000), "is not an intact HDF5 file"),
        ("pcam", TEST_X, hdf5("z", ZEROS), "has no array x of bytes"),
        ("pcam", TEST_X, hdf5("x", np.zeros((2, 3, 4), np.uint8)), "x must be [N, H, W, 3], not"),
        ("pcam", TEST_Y, hdf5("y", np.zeros(12)), "has no array y of bytes"),
        ("pcam", TEST_Y, hdf5("y", np.zeros(11, np.uint8)), "has 11 labels, and there are 12 im"),
        ("pcam", TEST_Y, hdf5("y", np.full(12, 3, np.uint8)), "row 0: the label is 3, and the 3"),
        ("gtsrb", "GT-final_test.csv", Path.unlink, "GT-final_test.csv is missing"),
        ("gtsrb", "GT-final_test.csv", written(b"Filename,ClassId\na,1\n"), "line 2: it gives no"),
        ("gtsrb", "GT-final_test.csv", written(b"Filename;ClassId\na;3\n"), "line 2: the label is"),
        ("gtsrb", "GT-final_test.csv", written(b"Filename;ClassId\n../a;1\n"), "gives no Filename"),
        ("gtsrb", "GT-final_test.csv", written(b"Filename;ClassId\n"), "lists no image"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_message(name, file, edit, message, copied):
    root = copied(name)
    edit(root / file)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read(name, root)
    assert str(root / file) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("gtsrb", "GTSRB/Training", "is missing"),
        ("country211", "valid", "is missing"),
        ("country211", "valid/AE", "must hold a folder for each of the 3 classes, as the other"),
    ],
)
def test_a_missing_folder_is_one_message(name, folder, message, copied, tmp_path):
    root = copied(name)
    (root / folder).rename(tmp_path / "away")
    where = root / (folder if message == "is missing" else "valid")
    with pytest.raises(UserError, match=f"{where} {message}"):
        read(name, root)


def test_a_class_folder_without_images_or_of_another_class_is_refused(copied):
    root = copied("gtsrb")
    (root / "GTSRB/Training/00003").mkdir()
    with pytest.raises(UserError, match="there is no image"):
        read("gtsrb", root)
    Image.new("RGB", (4, 4)).save(root / "GTSRB/Training/00003/1_1.ppm")
    with pytest.raises(UserError, match="00003 is none of the 3 classes 00000 to 00002"):
        read("gtsrb", root)
