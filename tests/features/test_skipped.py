"""Images that cannot be decoded end a run or are left out of its features."""

import logging
import os
from functools import partial

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

from src.clip.crops import Augmentation
from src.data import few_shot
from src.data.images import DamagedImageError, ImageFiles, Item
from src.errors import UserError
from src.features.datamodule import ChosenRows
from src.features.image_features import ImageFeatures
from src.heads.support import Support
from src.store.store import FeatureStore

TINY = "local-dir:src/clip/tiny"
BOTH = ["global", "spatial"]
TRAINER = partial(
    Trainer, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, use_distributed_sampler=False,
)  # fmt: skip
CROPS = Augmentation(crops=2, min_scale=0.5, horizontal_flip=False)


@pytest.fixture
def images(tmp_path):
    """Make 18 images of noise: six in each split, with two of each of three classes."""
    generator = np.random.default_rng(0)
    splits = {}
    for split in ("train", "val", "test"):
        splits[split] = [Item(f"{split}{row}.png", row % 3) for row in range(6)]
        for item in splits[split]:
            pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / item.key)
    return ImageFiles(tmp_path, ["a", "b", "c"], splits)


@pytest.fixture
def source(images, tmp_path):
    """Makes a source of `images` on one store; its batches of two span the damaged images' rows."""

    def make(on_bad_image, store="features"):
        return ImageFeatures(
            "noise", images, [[f"a photo of the letter {name}."] for name in "abc"], "tiny", TINY,
            None, "32-true", 2, FeatureStore(tmp_path / store), TRAINER,
            skip_damaged=on_bad_image == "skip",
        )  # fmt: skip

    return make


@pytest.fixture
def damage(images):
    """Damages or repairs images without changing size and time, so that their entry is kept."""
    intact = {}

    def write(key, content):
        times = (images.root / key).stat()
        (images.root / key).write_bytes(content)
        os.utime(images.root / key, ns=(times.st_atime_ns, times.st_mtime_ns))

    def alter(*keys):
        for key in keys:
            intact[key] = (images.root / key).read_bytes()
            write(key, b"?" * len(intact[key]))

    def mend():
        for key, content in intact.items():
            write(key, content)

    alter.mend = mend
    return alter


def everything(features):
    return features.rows(0, len(features))


def test_rows_are_left_out_wherever_they_are(source, damage, images, caplog):
    whole = everything(source("stop", "intact").split("test", inputs=BOTH))
    damage("test0.png", "test3.png", "test5.png")
    skipping = source("skip")
    with caplog.at_level(logging.WARNING):
        remaining = skipping.split("test", inputs=BOTH)
    assert len(remaining) == 3
    kept = [1, 2, 4]
    found = everything(remaining)
    assert found["label"].tolist() == [1, 2, 1]
    for name in ("global", "spatial"):
        torch.testing.assert_close(found[name], whole[name][kept], atol=2e-3, rtol=2e-3)
    for start in range(3):
        for stop in range(start + 1, 4):
            piece = remaining.rows(start, stop)
            for name, tensor in found.items():
                assert piece[name].equal(tensor[start:stop])
    assert skipping.skipped_images == {
        str(images.root / f"test{row}.png"): "not an image" for row in (0, 3, 5)
    }
    assert "noise/test: 3 of 6 images cannot be decoded" in caplog.text


def test_nothing_is_wrapped_or_said_where_nothing_is_damaged(source, caplog):
    skipping = source("skip")
    with caplog.at_level(logging.WARNING):
        entry = skipping.split("test", inputs=["global"])
    assert not isinstance(entry, ChosenRows)
    assert skipping.skipped_images == {}
    assert "left out" not in caplog.text
    assert source("stop").split("test", inputs=["global"]).path == entry.path


def test_an_image_is_counted_once_however_often_it_is_asked_for(source, damage, caplog):
    damage("val2.png")
    skipping = source("skip")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            skipping.split("val", inputs=["global"])
    assert len(skipping.few_shot_validation(2, seed=0, inputs=["global"])) == 5
    assert len(skipping.skipped_images) == 1
    assert len([one for one in caplog.records if "left out" in one.message]) == 1


def test_all_crops_of_an_image_drop_out_of_the_support_set(source, damage, images):
    whole, label = source("stop", "intact").support(2, 0, inputs=BOTH, augmentation=CROPS)
    assert whole["global"].shape[:2] == (2, 6)
    damage("train1.png")
    features, remaining = source("skip").support(2, 0, inputs=BOTH, augmentation=CROPS)
    assert features["global"].shape[:2] == features["spatial"].shape[:2] == (2, 5)
    items, _ = few_shot.sample(images.splits["train"], (), 2, 0)
    kept = [row for row, item in enumerate(items) if item.key != "train1.png"]
    assert remaining.equal(label[kept])
    for name, tensor in features.items():
        torch.testing.assert_close(tensor, whole[name][:, kept], atol=2e-3, rtol=2e-3)


def test_a_class_without_a_support_image_is_found(source, damage):
    damage("train0.png", "train3.png")
    _, label = source("skip").support(2, 0, inputs=["global"], augmentation=CROPS)
    assert len(label) == 4
    assert Support({}, label).missing(["a", "b", "c"]) == ["a"]


@pytest.mark.parametrize("made_by", ["stop", "skip"])
def test_stop_names_the_image_whoever_made_the_features(source, damage, images, made_by):
    damage("test2.png")
    if made_by == "skip":
        source("skip").split("test", inputs=["global"])
    with pytest.raises(DamagedImageError, match=r"test2\.png: not an image.*on_bad_image=skip"):
        source("stop").split("test", inputs=["global"])
    assert len(source("skip").split("test", inputs=["global"])) == 5


def test_a_missing_image_is_not_skipped(source, images):
    (images.root / "test2.png").unlink()
    with pytest.raises(UserError, match=r"test2\.png is missing"):
        source("skip").split("test", inputs=["global"])


def test_it_is_an_error_if_no_image_is_left(source, damage):
    damage(*(f"test{row}.png" for row in range(6)))
    with pytest.raises(UserError, match=r"none of the 6 images in .*could be decoded"):
        source("skip").split("test", inputs=["global"])


@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
def test_an_image_that_was_repaired_without_a_trace_is_reported(source, damage, on_bad_image):
    damage("test2.png")
    source("skip").split("test", inputs=["global"])
    damage.mend()
    with pytest.raises(UserError, match=r"test2\.png can be decoded, but could not .* remove"):
        source(on_bad_image).split("test", inputs=["global"])
