import multiprocessing
from functools import partial

import numpy as np
import pytest
import torch
from lightning import Trainer

from src.clip.crops import Augmentation, View, ViewTransform
from src.clip.model import FrozenClip
from src.data import few_shot
from src.data.images import ImageArrays, Item
from src.errors import UserError
from src.features.source import ImageFeatures
from src.store.store import FeatureStore

TINY = "local-dir:src/clip/tiny"
PROMPTS = [[f"a photo of the letter {name}."] for name in "abc"]
TRAINER = partial(
    Trainer, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, use_distributed_sampler=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 20, 20), dtype=np.uint8)
    rows = {"train": range(30), "val": range(30, 45), "test": range(45, 60)}
    splits = {name: [Item(str(row), row % 3) for row in some] for name, some in rows.items()}
    return ImageArrays(pixels, ["a", "b", "c"], splits)


@pytest.fixture
def source(dataset, tmp_path):
    return ImageFeatures(
        "noise", dataset, PROMPTS, "tiny", TINY, None, "32-true", 4,
        FeatureStore(tmp_path), TRAINER,
    )  # fmt: skip


def test_features_are_clips_in_the_order_of_the_split(source, dataset):
    clip = FrozenClip.load(TINY, None)
    items = dataset.splits["test"]
    images = torch.stack([clip.preprocess(dataset.load(item)) for item in items])
    expected, expected_spatial = clip.encode_image_spatial(images)
    stored = source.split("test", spatial=True).rows(0, 15)
    assert stored["label"].tolist() == [item.label for item in items]
    assert stored["global"].dtype == stored["spatial"].dtype == torch.float16
    torch.testing.assert_close(stored["global"].float(), expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(stored["spatial"].float(), expected_spatial, atol=2e-3, rtol=2e-3)


def test_workers_start_where_joblib_has_put_its_own_way_to_start_them(source):
    import joblib  # noqa: F401  (registers loky)

    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("loky", force=True)
    try:
        assert len(source.split("train", spatial=False)) == 30  # 8 batches: 2 workers
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_features_with_spatial_ones_serve_whoever_needs_the_global_ones(source):
    both = source.split("test", spatial=True)
    assert source.split("test", spatial=False).path == both.path


def test_text_is_kept_with_its_logit_scale(source, monkeypatch):
    text, scale = source.text()
    assert scale == FrozenClip.load(TINY, None).logit_scale
    torch.testing.assert_close(text.norm(dim=1), torch.ones(3))
    monkeypatch.setattr(FrozenClip, "load", lambda *_: pytest.fail("CLIP was loaded again"))
    del source._clip
    again, same_scale = source.text()
    assert torch.equal(again, text)
    assert same_scale == scale


def test_support_holds_every_view_of_every_image(source, dataset):
    augmentation = Augmentation(views=3, min_scale=0.5, horizontal_flip=True)
    features, label = source.support(shots=2, seed=0, spatial=False, augmentation=augmentation)
    assert features["global"].shape[:2] == (3, 6)
    assert label.tolist() == [0, 0, 1, 1, 2, 2]
    clip = FrozenClip.load(TINY, None)
    look = ViewTransform(clip.preprocess, clip.image_size, augmentation)
    items, _ = few_shot.sample(dataset.splits["train"], dataset.splits["val"], 2, 0)
    for number in range(3):
        images = torch.stack([look(dataset.load(i), View(i, number)) for i in items])
        expected = clip.encode_image(images)
        torch.testing.assert_close(
            features["global"][number].float(), expected, atol=2e-3, rtol=2e-3
        )


def test_plain_support_is_one_unaugmented_view(source):
    features, label = source.support(shots=2, seed=0, spatial=True, augmentation=None)
    assert features["global"].shape[:2] == (1, 6)
    assert features["spatial"].shape[:2] == (1, 6)
    assert len(label) == 6


def test_shots_beyond_the_data_are_refused(source):
    with pytest.raises(UserError, match="shots=11 is more than the data holds"):
        source.support(shots=11, seed=0, spatial=False, augmentation=None)


def test_a_change_of_pixels_makes_new_features(source, dataset):
    first = source.split("test", spatial=False)
    dataset.pixels[50] ^= 1
    assert source.split("test", spatial=False).path != first.path


def test_text_is_encoded_in_float32_whatever_the_images_are_encoded_in(dataset, tmp_path):
    def source(folder):
        return ImageFeatures(
            "noise", dataset, PROMPTS, "tiny", TINY, None, "bf16-true", 4,
            FeatureStore(tmp_path / folder), TRAINER,
        )  # fmt: skip

    late, early = source("late"), source("early")
    late.split("test", spatial=False)
    assert torch.equal(late.text()[0], early.text()[0])
