import pytest
from PIL import Image

from src.data.check import MISSING, distinct, examine, leaked, wrong_counts
from src.data.images import ImageFiles, Item
from src.errors import UserError

SPLITS = {
    "train": [Item("a1", 0), Item("a2", 0), Item("b1", 1)],
    "val": [],
    "test": [Item("a3", 0), Item("b2", 1)],
}


@pytest.fixture
def images(tmp_path):
    for items in SPLITS.values():
        for item in items:
            Image.effect_noise((20, 20), 50).save(tmp_path / item.key, "png")
    return ImageFiles(tmp_path, ["a", "b"], SPLITS)


def bad(images):
    return {key: why for key, why in examine(images, distinct(images).values()) if why}


def test_an_intact_dataset_has_nothing_wrong(images):
    items = distinct(images)
    assert list(examine(images, items.values())) == [(key, None) for key in items]
    assert list(items) == ["a1", "a2", "b1", "a3", "b2"]
    assert leaked(images) == {}
    totals = {"classes": 2, "train": 3, "val": 0, "test": 2}
    assert wrong_counts(images, totals, {"test": 1}) == []


def test_what_is_wrong_with_each_image_is_said(images):
    intact = (images.root / "a1").read_bytes()
    (images.root / "a1").write_bytes(intact[:200])
    (images.root / "a2").write_bytes(b"")
    (images.root / "b1").write_text("no photograph")
    (images.root / "a3").unlink()
    (images.root / "b2").unlink()
    (images.root / "b2").mkdir()
    found = bad(images)
    assert list(found) == ["a1", "a2", "b1", "a3", "b2"]
    assert "truncated" in found.pop("a1")
    assert found == {
        "a2": "the file is empty",
        "b1": "not an image",
        "a3": MISSING,
        "b2": "it is no file",
    }


def test_what_the_system_does_not_let_us_read_is_no_damage(images, monkeypatch):
    def denied(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", denied)
    assert bad(images)["a1"] == f"cannot read the image {images.root / 'a1'}: Permission denied."


def test_a_test_image_in_another_split_is_a_leak(images):
    val = [Item("b2", 1), Item("a1", 0)]
    again = ImageFiles(images.root, ["a", "b"], SPLITS | {"val": val})
    assert leaked(again) == {"b2": "listed by val and by test"}
    assert len(distinct(again)) == 5


def test_wrong_counts_are_named_with_both_numbers(images):
    assert wrong_counts(images, {"classes": 3, "train": 1200, "test": 2}, {"train": 2}) == [
        "2 classes, not 3",
        "3 images in train, not 1,200",
        "1 images of 'b' in train, not 2",
    ]


def test_a_class_without_any_image_is_counted_too(images):
    more = ImageFiles(images.root, ["a", "b", "c"], SPLITS)
    assert wrong_counts(more, {}, {"test": 1}) == ["0 images of 'c' in test, not 1"]


@pytest.mark.parametrize(("totals", "per_class"), [({"tests": 2}, {}), ({}, {"classes": 2})])
def test_an_unknown_key_is_the_users_mistake(images, totals, per_class):
    with pytest.raises(UserError, match="has the key"):
        wrong_counts(images, totals, per_class)
