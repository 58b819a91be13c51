import pytest

from src.data import fgvc_aircraft
from src.data.images import Item
from src.errors import UserError

FILES = {
    "variants.txt": "707-320\nF/A-18\nDHC-8-100 \n",
    "images_variant_train.txt": "1025794 F/A-18\n0056978 707-320\n",
    "images_variant_val.txt": "0000001 DHC-8-100\n",
    "images_variant_test.txt": "0000002 707-320\n",
}


def read(folder, **changed):
    for name, content in FILES.items():
        (folder / name).write_text(changed.get(name.removesuffix(".txt"), content))
    return fgvc_aircraft.read(str(folder))


def test_reads_classes_in_the_order_of_the_variants_and_images_in_order(tmp_path):
    dataset = read(tmp_path)
    assert dataset.class_names == ["707-320", "F/A-18", "DHC-8-100"]
    assert dataset.splits == {
        "train": [Item("1025794.jpg", 1), Item("0056978.jpg", 0)],
        "val": [Item("0000001.jpg", 2)],
        "test": [Item("0000002.jpg", 0)],
    }
    assert dataset.root == tmp_path / "images"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"variants": "707-320\n707-320\n"}, r"variants\.txt names a variant twice"),
        ({"variants": ""}, r"variants\.txt is empty"),
        ({"images_variant_val": ""}, r"images_variant_val\.txt is empty"),
        (
            {"images_variant_test": "0000002 747\n"},
            r"variant_test\.txt is malformed: '0000002 747'",
        ),
        ({"images_variant_test": "0000002\n"}, "'0000002' is not an image's number"),
        ({"images_variant_train": "../2 707-320\n"}, "'../2 707-320' is not"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, **changed)


def test_a_missing_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is missing"):
        fgvc_aircraft.read(str(tmp_path / "nowhere"))
    read(tmp_path)
    (tmp_path / "images_variant_val.txt").unlink()
    with pytest.raises(UserError, match=r"images_variant_val\.txt is missing"):
        fgvc_aircraft.read(str(tmp_path))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    read(tmp_path)
    (tmp_path / "variants.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"variants\.txt is not text"):
        fgvc_aircraft.read(str(tmp_path))
