"""Several crops of each image that is classified: a kind of entry of its own."""

import logging
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

from src.clip.crops import Augmentation, Crop, CropTransform
from src.clip.model import FrozenClip
from src.data.images import ImageFiles, Item
from src.errors import UserError
from src.features import disk_space, image_crops, precomputed
from src.features.extract import ShardWriter
from src.features.image_crops import ImageCrops
from src.features.image_features import ImageFeatures
from src.features.plan import Crops
from src.store.store import FeatureStore
from tests.cli import calipers, jobs, refusal
from tests.features.test_precomputed import change
from tests.features.test_precomputed import folder as precomputed_folder  # noqa: F401

TINY = "local-dir:src/clip/tiny"
PROMPTS = [[f"a photo of the letter {name}."] for name in "abc"]
TRAINER = partial(
    Trainer, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, use_distributed_sampler=False,
)  # fmt: skip
FIVE = ImageCrops(crops=5, min_scale=0.3, horizontal_flip=True)
IMAGES = 8


@pytest.fixture
def images(tmp_path):
    generator = np.random.default_rng(0)
    items = [Item(f"{row}.png", row % 3) for row in range(IMAGES)]
    for item in items:
        pixels = generator.integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / item.key)
    return ImageFiles(tmp_path, ["a", "b", "c"], {"train": items, "val": (), "test": items})


@pytest.fixture
def make(images, tmp_path):
    def made(test_crops=FIVE, batch_size=10, skip_damaged=False):
        return ImageFeatures(
            "noise", images, PROMPTS, "tiny", TINY, None, "32-true", batch_size,
            FeatureStore(tmp_path / "features"), TRAINER, skip_damaged, test_crops,
        )  # fmt: skip

    return made


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Count how often each image is decoded, by whichever process."""
    load, journal = ImageFiles.load, tmp_path / "opened"

    def counting(dataset, item):
        with journal.open("a") as lines:
            lines.write(f"{item.key}\n")
        return load(dataset, item)

    def count():
        lines = journal.read_text().splitlines()
        journal.unlink()
        return Counter(lines)

    monkeypatch.setattr(ImageFiles, "load", counting)
    return count


def entries(tmp_path):
    return sorted(path.name for path in tmp_path.glob("features/*/*") if path.is_dir())


@pytest.mark.parametrize(("batch_size", "times"), [(3, 3), (5, 1), (12, 1), (64, 1)])
def test_each_row_has_the_image_and_its_crops_and_each_image_is_decoded_once(
    make, images, opened, batch_size, times
):
    """Or once for each of its batches, where a batch is too small for all of its crops."""
    features = make(batch_size=batch_size).split("test", ["crops", "global"])
    count = opened()
    assert len(count) == IMAGES
    assert max(count.values()) <= times
    assert len(features) == IMAGES
    clip = FrozenClip.load(TINY, None)
    look = CropTransform(clip.preprocess, clip.image_size, Augmentation(5, 0.3, True))
    for start, stop in ((0, IMAGES), (2, 3), (3, 7)):
        found = features.rows(start, stop)
        items = images.splits["test"][start:stop]
        assert found["label"].tolist() == [item.label for item in items]
        assert found["crops"].dtype == torch.float16
        assert torch.equal(found["global"], found["crops"][:, 0])
        for item, crops in zip(items, found["crops"], strict=True):
            image = images.load(item)
            looks = [look(image, Crop(item, number)) for number in (None, 1, 2, 3, 4)]
            expected = clip.encode_image(torch.stack(looks))
            torch.testing.assert_close(crops.float(), expected, atol=2e-3, rtol=2e-3)


def test_the_first_crop_is_what_the_ordinary_features_hold(make):
    source = make()
    whole, crops = (source.split("test", [name]).rows(0, IMAGES) for name in ("global", "crops"))
    torch.testing.assert_close(whole["global"], crops["global"], atol=2e-3, rtol=2e-3)
    assert torch.equal(whole["label"], crops["label"])


def test_crops_are_listed_image_by_image():
    order = Crops(items := [Item("a", 0), Item("b", 1)], [None, 1, 2], image_by_image=True)
    expected = [Crop(item, number) for item in items for number in (None, 1, 2)]
    assert list(order) == expected
    assert order[1:5] == expected[1:5]
    assert order[-1] == expected[-1]
    with pytest.raises(IndexError):
        order[6]


@pytest.mark.parametrize(("most", "rows"), [(3, 3), (5, 5), (12, 10), (64, 60)])
def test_a_batch_has_whole_images_where_it_can(most, rows):
    assert FIVE.plan([Item("a", 0)], most, width=64).rows_per_batch == rows


def test_whatever_changes_a_crop_makes_another_entry_and_the_others_keep_their_names(
    make, tmp_path
):
    make(None).split("test", ["global"])
    make(None).support(1, 0, ["global"], Augmentation(2, 0.5, False, first=1))
    before = entries(tmp_path)
    # What an earlier version put into a key.
    source = make(None)
    assert source._key("support", "f", ["global"], Augmentation(2, 0.5, False, first=1)) == {
        "dataset": "noise", "fingerprint": "f", "split": "support", "backbone": "tiny",
        "weights": source._weights, "precision": "32-true", "features": ["global"],
        "preprocessing": {"first": 1, "views": 2, "min_scale": 0.5, "horizontal_flip": False},
    }  # fmt: skip
    assert source._key("test", "f", ["global"])["preprocessing"] == "inference"

    paths = [
        make(ImageCrops(*settings)).split("test", ["crops"])._features.path
        for settings in [
            (3, 0.3, True), (4, 0.3, True), (3, 0.5, True), (3, 0.3, False), (3, 0.3, True),
        ]
    ]  # fmt: skip
    assert len(set(paths)) == 4
    assert paths[0] == paths[4]
    assert set(before) < set(entries(tmp_path))
    assert all(path.name.startswith("test_crops-tiny-") for path in paths)


def test_a_second_source_reads_what_the_first_one_stored(make, monkeypatch):
    first = make().split("test", ["crops"]).rows(0, IMAGES)
    monkeypatch.setattr(FrozenClip, "load", lambda *_: pytest.fail("CLIP was loaded again"))
    again = make(batch_size=64).split("test", ["crops", "global"]).rows(0, IMAGES)
    assert torch.equal(again["crops"], first["crops"])


def test_an_interrupted_extraction_goes_on_where_it_stopped(
    make, opened, monkeypatch, caplog, tmp_path
):
    monkeypatch.setattr(image_crops, "ROWS_PER_SHARD", 11)  # two images
    write = ShardWriter.write_on_batch_end

    def interrupted(writer, trainer, module, prediction, *rest):
        if prediction["shard"] == 2:
            raise KeyboardInterrupt
        write(writer, trainer, module, prediction, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write_on_batch_end", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            make().split("test", ["crops"])
    (folder,) = tmp_path.glob("features/noise/test_crops-*/")
    stored = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard*")}
    assert sorted(stored) == ["shard-00000.safetensors", "shard-00001.safetensors"]

    opened()
    usage = SimpleNamespace(free=disk_space.RESERVE + 4000)  # not enough for all of it
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage)
    with caplog.at_level(logging.INFO):
        # The batches are others, and the shards the same.
        features = make(batch_size=5).split("test", ["crops"])
    assert opened() == {f"{row}.png": 1 for row in range(4, IMAGES)}
    assert {name: (folder / name).stat().st_mtime_ns for name in stored} == stored
    assert "about 7.0 kB (3.5 kB of it missing), with tiny" in caplog.text
    assert len(features) == IMAGES


def test_damaged_images_are_left_out_with_all_their_crops(make, images, opened, caplog):
    whole = make().split("test", ["crops"]).rows(0, IMAGES)["crops"]
    for row in (0, 3, 4):
        (images.root / f"{row}.png").write_bytes(b"?")
    opened()
    source = make(skip_damaged=True)
    with caplog.at_level(logging.WARNING):
        features = source.split("test", ["crops"])
    assert opened()["0.png"] == 2  # for its crops, and for what is wrong with it
    assert len(source.skipped_images) == 3
    assert "noise/test_crops: 3 of 8 images cannot be decoded: left out" in caplog.text
    found = features.rows(0, len(features))
    assert found["label"].tolist() == [1, 2, 2, 0, 1]
    torch.testing.assert_close(found["crops"], whole[[1, 2, 5, 6, 7]], atol=2e-3, rtol=2e-3)
    with pytest.raises(UserError, match=r"0\.png: not an image"):
        make().split("test", ["crops"])


def test_the_size_is_said_before_and_is_that_of_the_entry(make, caplog, tmp_path):
    with caplog.at_level(logging.INFO):
        make().split("test", ["crops"])
    expected = "extracting noise/test_crops: 5 crops of each of 8 images, about 5.8 kB, with tiny"
    assert expected in caplog.text
    (folder,) = tmp_path.glob("features/noise/test_crops-*/")
    size = sum(path.stat().st_size for path in folder.glob("shard*"))
    assert abs(size - FIVE.size(5 * IMAGES, 64)) < 400
    # 64 crops of ImageNet's test images in RN50's space
    imagenet = ImageCrops(64, 0.08, True).size(64 * 50_000, 1024)
    assert imagenet == pytest.approx(6.58e9, rel=1e-2)


def test_a_disk_that_lacks_the_space_is_refused_before_anything_is_written(
    make, monkeypatch, tmp_path
):
    usage = SimpleNamespace(free=disk_space.RESERVE + 5000)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError) as refused:
        make().split("test", ["crops"])
    message = str(refused.value)
    folder = tmp_path / "features/noise/test_crops-tiny-"
    assert message.startswith(f"the disk of {folder}")
    assert "has 64.0 MB free, and 64.0 MB are needed" in message
    assert message.endswith(
        "free some space, give a folder on another disk by paths.features=..., or take fewer crops "
        "by method.test_crops.crops=...."
    )
    assert not [name for name in entries(tmp_path) if name.startswith("test_crops")]
    usage.free += 1000
    assert len(make().split("test", ["crops"])) == IMAGES


def test_what_is_stored_already_needs_no_space(make, monkeypatch):
    make().split("test", ["crops"])
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert len(make().split("test", ["crops"])) == IMAGES


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crops": 1}, r"method\.test_crops\.crops=1 is not an integer from 2 up"),
        ({"crops": 0}, r"method\.test_crops\.crops=0 is not an integer from 2 up"),
        ({"crops": "x"}, r"method\.test_crops\.crops=x is not an integer from 2 up"),
        ({"min_scale": 0}, r"method\.test_crops\.min_scale=0: .* above 0 and at most 1"),
        ({"min_scale": "x"}, r"method\.test_crops\.min_scale=x"),
        ({"horizontal_flip": 1}, r"method\.test_crops\.horizontal_flip=1: give true or false"),
        ({"crop": 8}, r"method\.test_crops\.crop=8: there is no such setting"),
    ],
)
def test_wrong_settings_are_named(changed, message):
    settings = {"crops": 64, "min_scale": 0.08, "horizontal_flip": True}
    assert image_crops.read(None) is None
    assert image_crops.read(settings) == ImageCrops(64, 0.08, True)
    with pytest.raises(UserError, match=message):
        image_crops.read(settings | changed)


def test_missing_settings_are_named(make):
    with pytest.raises(UserError, match=r"method\.test_crops\.min_scale has no value"):
        image_crops.read({"crops": 64, "horizontal_flip": True})
    with pytest.raises(UserError, match=r"method\.test_crops=64: give crops, min_scale"):
        image_crops.read(64)
    with pytest.raises(UserError, match=r"method\.test_crops is missing: give '\+method"):
        make(None).split("test", ["crops"])


def test_precomputed_features_may_have_crops(precomputed_folder):  # noqa: F811
    folder = precomputed_folder
    crops = torch.randn(7, 4, 8)
    change(folder / "test.safetensors", crops=crops)
    features = precomputed.read(str(folder))
    assert torch.equal(features.split("test", ["crops"]).rows(2, 5)["crops"], crops[2:5])
    with pytest.raises(UserError, match=r"val\.safetensors holds no tensor called 'crops'"):
        features.split("val", ["crops"])
    for wrong, message in (
        (crops[:, :1], "crops has one crop of each image: give 2 or more"),
        (crops[:6], "crops has 6 rows and label 7"),
        (crops[..., :5].contiguous(), "crops has 5 dimensions and text"),
        (crops[:, 0].contiguous(), "crops has the shape"),
    ):
        change(folder / "test.safetensors", crops=wrong.contiguous())
        with pytest.raises(UserError, match=message):
            features.split("test", ["crops"])


def test_methods_on_crops_run_from_the_command_line_and_share_an_entry(tmp_path):
    done = calipers(
        tmp_path, "-m", "method=zero_vote,mta", "dataset=digits", "logger=csv",
        "++method.test_crops.crops=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(jobs(tmp_path)) == 2
    assert "digits/test_crops: 4 crops of each of 720 images, about 39" in done.stdout
    assert len([name for name in entries(tmp_path) if name.startswith("test_crops")]) == 1


def test_a_wrong_number_of_crops_ends_a_run_in_one_message(tmp_path):
    message = refusal(tmp_path, "method=mta", "method.test_crops.crops=1")
    assert "method.test_crops.crops=1 is not an integer from 2 up" in message
