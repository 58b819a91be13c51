import json
import os

import pytest
from PIL import Image

from src.data import coop
from src.data.images import Item
from src.errors import UserError
from tests.shared import SHARED, needs_shared

GOOD = {
    "train": [["b/1.jpg", 1, "wild boar"], ["a/1.jpg", 0, "cat"]],
    "val": [["a/2.jpg", 0, "cat"]],
    "test": [["b/2.jpg", 1, "wild boar"]],
}


def read(folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "split.json").write_text(text)
    return coop.read(str(folder), "images", "split.json")


def test_a_byte_order_mark_is_skipped(tmp_path):
    assert read(tmp_path, "\ufeff" + json.dumps(GOOD)).class_names == ("cat", "wild boar")


def test_reads_classes_by_label_and_items_in_order(tmp_path):
    dataset = read(tmp_path, GOOD)
    assert dataset.class_names == ("cat", "wild boar")
    assert dataset.splits["train"] == [Item("b/1.jpg", 1), Item("a/1.jpg", 0)]
    assert dataset.root == tmp_path / "images"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([], "no list called 'train'"),
        (GOOD | {"val": []}, "no list called 'val'"),
        (GOOD | {"test": [["b/2.jpg", 1]]}, r"test\[0\] is not \[path, label, class name\]"),
        (GOOD | {"test": [["b/2.jpg", "1", "x"]]}, r"test\[0\] is not"),
        (GOOD | {"test": [["b/2.jpg", -1, "x"]]}, r"test\[0\] is not"),
        (
            GOOD | {"test": [["b/2.jpg", 1, "pig"]]},
            "calls class 1 'pig', before it was 'wild boar'",
        ),
        (GOOD | {"test": [["b/2.jpg", 3, "pig"]]}, "its labels are not 0 to 2"),
        (GOOD | {"test": [["../2.jpg", 1, "wild boar"]]}, "leaves the image folder"),
        (GOOD | {"test": [["/etc/passwd", 1, "wild boar"]]}, "leaves the image folder"),
    ],
)
def test_a_malformed_split_file_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, content)
    assert "split.json" in str(error.value)


def test_a_missing_folder_and_a_missing_split_file_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is missing"):
        coop.read(str(tmp_path / "nowhere"), "images", "split.json")
    with pytest.raises(UserError, match=r"split\.json is missing"):
        coop.read(str(tmp_path), "images", "split.json")


def test_the_fingerprint_follows_what_an_image_is(tmp_path):
    dataset = read(tmp_path, GOOD)
    (tmp_path / "images/a").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "images/a/1.jpg")
    items = [Item("a/1.jpg", 0)]
    first = dataset.fingerprint(items)
    assert dataset.fingerprint(items) == first
    assert dataset.fingerprint([Item("a/1.jpg", 1)]) != first
    Image.new("RGB", (90, 90)).save(tmp_path / "images/a/1.jpg")
    assert dataset.fingerprint(items) != first
    # Two uncompressed images have the same size.
    before, image = [], tmp_path / "images/a/1.jpg"
    for colour, second in (("red", 1), ("red", 1), ("blue", 2)):
        Image.new("RGB", (9, 9), colour).save(image, "bmp")
        os.utime(image, (second, second))
        before.append((dataset.fingerprint(items), image.stat().st_size))
    assert before[0] == before[1] != before[2]
    assert before[0][1] == before[2][1]
    with pytest.raises(UserError, match=r"a/2\.jpg is missing"):
        dataset.fingerprint([Item("a/2.jpg", 0)])


@needs_shared
@pytest.mark.parametrize(
    ("split_file", "sizes", "classes", "first"),
    [
        ("split_zhou_EuroSAT.json", (13500, 5400, 8100), 10, "Annual Crop Land"),
        ("split_zhou_DescribableTextures.json", (2820, 1128, 1692), 47, "banded"),
        ("split_zhou_OxfordPets.json", (2944, 736, 3669), 37, "abyssinian"),
    ],
)
def test_the_real_split_files_are_read_whole(tmp_path, split_file, sizes, classes, first):
    dataset = read(tmp_path, (SHARED / "coop/splits" / split_file).read_text())
    assert tuple(len(dataset.splits[split]) for split in ("train", "val", "test")) == sizes
    assert len(dataset.class_names) == classes
    assert dataset.class_names[0] == first
