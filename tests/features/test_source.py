import hashlib
import json
import logging
import multiprocessing
import shutil
import threading
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from lightning import Trainer
from safetensors.torch import save_file

from src.clip.crops import Augmentation, Crop, CropTransform
from src.clip.model import FrozenClip
from src.clip.weights import weights_id
from src.data import few_shot
from src.data.images import ImageArrays, Item
from src.errors import UserError
from src.features import precomputed
from src.features.image_features import ImageFeatures
from src.store.store import FeatureStore

TINY = "local-dir:src/clip/tiny"
BOTH = ["global", "spatial"]
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
def make(dataset, tmp_path):
    def made(prompts=PROMPTS):
        return ImageFeatures(
            "noise", dataset, prompts, "tiny", TINY, None, "32-true", 4,
            FeatureStore(tmp_path), TRAINER,
        )  # fmt: skip

    return made


@pytest.fixture
def source(make):
    return make()


def test_features_are_clips_in_the_order_of_the_split(source, dataset):
    clip = FrozenClip.load(TINY, None)
    items = dataset.splits["test"]
    images = torch.stack([clip.preprocess(dataset.load(item)) for item in items])
    expected, expected_spatial = clip.encode_image_spatial(images)
    stored = source.split("test", inputs=BOTH).rows(0, 15)
    assert stored["label"].tolist() == [item.label for item in items]
    assert stored["global"].dtype == stored["spatial"].dtype == torch.float16
    torch.testing.assert_close(stored["global"].float(), expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(stored["spatial"].float(), expected_spatial, atol=2e-3, rtol=2e-3)


def test_workers_start_where_joblib_has_put_its_own_way_to_start_them(source):
    import joblib  # noqa: F401  (registers loky)

    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("loky", force=True)
    try:
        assert len(source.split("train", inputs=["global"])) == 30  # 8 batches: 2 workers
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_features_with_spatial_ones_serve_whoever_needs_the_global_ones(source):
    both = source.split("test", inputs=BOTH)
    assert source.split("test", inputs=["global"]).path == both.path


def test_unprojected_features_are_stored_beside_the_global_ones_and_serve_for_them(source):
    """The projection is CLIP's in float32, also after an extraction has folded the tower."""
    entry = source.split("test", inputs=["unprojected"])
    stored = entry.rows(0, 15)
    assert set(stored) == {"global", "unprojected", "label"}
    weight, bias = source.projection, source.projection_bias
    again = stored["unprojected"].float() @ weight + bias
    torch.testing.assert_close(again, stored["global"].float(), atol=5e-3, rtol=5e-3)
    clip = FrozenClip.load(TINY, None)
    assert torch.equal(weight, clip.projection.weight)
    assert torch.equal(bias, clip.projection.bias)
    weight.zero_()
    assert torch.equal(source.projection, clip.projection.weight)
    assert source.split("test", inputs=["global"]).path == entry.path


def test_spatial_and_unprojected_features_are_stored_together_only_where_both_are_needed(source):
    spatial = source.split("test", inputs=BOTH)
    unprojected = source.split("test", inputs=["unprojected"])
    assert spatial.path != unprojected.path
    every = source.split("test", inputs=["spatial", "unprojected"])
    assert set(every.rows(0, 2)) == {"global", "spatial", "unprojected", "label"}
    for inputs in (BOTH, ["unprojected"], ["global"]):
        assert source.split("test", inputs=inputs).path == every.path


def test_who_needs_global_features_waits_for_a_process_that_extracts_more(make, monkeypatch):
    found = []
    other = threading.Thread(target=lambda: found.append(make().split("test", ["global"])))
    writing = FeatureStore.writing

    @contextmanager
    def writing_beside(*arguments):
        with writing(*arguments) as writer:
            other.start()
            time.sleep(0.3)
            assert not found
            yield writer

    monkeypatch.setattr(FeatureStore, "writing", writing_beside)
    both = make().split("test", BOTH)
    other.join()
    assert [features.path for features in found] == [both.path]


def test_text_is_kept_with_its_length_and_its_logit_scale(make, monkeypatch):
    first = make()
    clip = FrozenClip.load(TINY, None)
    assert first.logit_scale == clip.logit_scale
    torch.testing.assert_close(first.text.norm(dim=1), torch.ones(3))
    with torch.no_grad():
        raw = clip.model.encode_text(clip.tokenizer([prompt for [prompt] in PROMPTS]))
    torch.testing.assert_close(first.raw_text, raw, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(FrozenClip, "load", lambda *_: pytest.fail("CLIP was loaded again"))
    again = make()
    assert torch.equal(again.text, first.text)
    assert torch.equal(again.raw_text, first.raw_text)
    assert again.logit_scale == first.logit_scale


def test_support_holds_every_crop_of_every_image(source, dataset):
    augmentation = Augmentation(crops=3, min_scale=0.5, horizontal_flip=True)
    features, label = source.support(shots=2, seed=0, inputs=["global"], augmentation=augmentation)
    assert features["global"].shape[:2] == (3, 6)
    assert label.tolist() == [0, 0, 1, 1, 2, 2]
    clip = FrozenClip.load(TINY, None)
    look = CropTransform(clip.preprocess, clip.image_size, augmentation)
    items, _ = few_shot.sample(dataset.splits["train"], dataset.splits["val"], 2, 0)
    for number in range(3):
        images = torch.stack([look(dataset.load(i), Crop(i, number)) for i in items])
        expected = clip.encode_image(images)
        torch.testing.assert_close(
            features["global"][number].float(), expected, atol=2e-3, rtol=2e-3
        )


def test_further_crops_are_others_and_are_stored_beside_the_first(source):
    def drawn(crops, first=0):
        augmentation = Augmentation(crops, min_scale=0.5, horizontal_flip=True, first=first)
        features, _ = source.support(2, seed=0, inputs=["global"], augmentation=augmentation)
        return features["global"]

    first, further = drawn(2), drawn(3, first=2)
    assert torch.equal(torch.cat([first, further]), drawn(5))
    assert not any(torch.equal(one, other) for one in first for other in further)


def test_plain_support_is_one_unaugmented_crop(source):
    features, label = source.support(shots=2, seed=0, inputs=BOTH, augmentation=None)
    assert features["global"].shape[:2] == (1, 6)
    assert features["spatial"].shape[:2] == (1, 6)
    assert len(label) == 6


def test_shots_beyond_the_data_are_refused(source):
    with pytest.raises(UserError, match="shots=11 is more than the data holds"):
        source.support(shots=11, seed=0, inputs=["global"], augmentation=None)


def test_a_change_of_pixels_makes_new_features(source, dataset):
    first = source.split("test", inputs=["global"])
    dataset.pixels[50] ^= 1
    assert source.split("test", inputs=["global"]).path != first.path


def test_text_is_encoded_in_float32_whatever_the_images_are_encoded_in(dataset, tmp_path):
    def source(folder):
        return ImageFeatures(
            "noise", dataset, PROMPTS, "tiny", TINY, None, "bf16-true", 4,
            FeatureStore(tmp_path / folder), TRAINER,
        )  # fmt: skip

    late, early = source("late"), source("early")
    late.split("test", inputs=["global"])
    assert torch.equal(late.text, early.text)


def test_raw_text_is_the_mean_of_the_prompts_features_as_clip_gives_them(make):
    prompts = [[f"a photo of the letter {name}.", f"the letter {name}"] for name in "abc"]
    source, clip = make(prompts), FrozenClip.load(TINY, None)
    flat = [prompt for of_class in prompts for prompt in of_class]
    with torch.no_grad():
        each = clip.model.encode_text(clip.tokenizer(flat)).view(3, 2, -1)
    torch.testing.assert_close(source.raw_text, each.mean(dim=1), atol=1e-5, rtol=1e-5)
    directions = torch.nn.functional.normalize(each, dim=-1).mean(dim=1)
    expected = torch.nn.functional.normalize(directions, dim=-1)
    torch.testing.assert_close(source.text, expected, atol=1e-5, rtol=1e-5)


def test_each_prompt_s_text_is_what_clip_gives_for_it_alone_and_is_stored_once(make, monkeypatch):
    prompts = [["a photo of the letter a.", "the letter a"], ["letter b"], ["c", "a c", "letter c"]]
    source, clip = make(prompts), FrozenClip.load(TINY, None)
    flat = [prompt for of_class in prompts for prompt in of_class]
    with torch.no_grad():
        alone = [clip.model.encode_text(clip.tokenizer([prompt]))[0] for prompt in flat]
    found = source.prompt_text
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=1e-5)
    assert source.prompt_label.tolist() == [0, 0, 1, 2, 2, 2]
    means = [found[source.prompt_label == label].mean(dim=0) for label in range(3)]
    torch.testing.assert_close(source.raw_text, torch.stack(means), atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(FrozenClip, "load", lambda *_: pytest.fail("CLIP was loaded again"))
    assert torch.equal(make(prompts).prompt_text, found)


def test_precomputed_features_have_one_text_a_class_for_its_prompts_and_no_projection(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(["cat", "dog"]))
    (tmp_path / "meta.json").write_text(json.dumps({"logit_scale": 50}))
    text = 10 * torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    save_file({"text": text}, tmp_path / "text.safetensors")
    source = precomputed.read(str(tmp_path))
    assert torch.equal(source.prompt_text, source.raw_text)
    assert torch.equal(source.prompt_text, text)
    assert source.prompt_label.tolist() == [0, 1]
    for name in ("projection", "projection_bias"):
        with pytest.raises(UserError, match=r"CLIP's last linear layer, and precomputed .* choose"):
            getattr(source, name)
    with pytest.raises(UserError, match="needs unprojected features, which the format"):
        source.split("test", ["unprojected"])


def test_text_of_an_earlier_version_is_said_to_be_outdated_and_encoded_again(
    make, tmp_path, caplog
):
    """The earlier version stored only the direction of the text features."""
    key = make()._text_entry.manifest["key"]
    assert key["features"] == ["text", "raw_text"]
    shutil.rmtree(tmp_path / "noise")
    store, earlier = FeatureStore(tmp_path), key | {"features": ["text"]}
    with store.writing(earlier, 3, 3, {"logit_scale": "1.0"}) as writer:
        writer.write(0, {"text": torch.eye(3)})
        writer.finish()
    with caplog.at_level(logging.INFO):
        source = make()
        torch.testing.assert_close(source.text.norm(dim=1), torch.ones(3))
        assert source.raw_text.shape == source.text.shape == (3, 64)
    assert "outdated" in caplog.text


def test_crops_of_an_earlier_version_are_used(make, dataset):
    """The key of an entry is still that of the earlier version, which called crops "views"."""
    augmentation = Augmentation(crops=2, min_scale=0.5, horizontal_flip=True)
    items, _ = few_shot.sample(dataset.splits["train"], (), 2, 0)
    key = make()._key("support", dataset.fingerprint(items), ["global"], augmentation)
    assert key == {
        "dataset": "noise",
        "fingerprint": dataset.fingerprint(items),
        "split": "support",
        "backbone": "tiny",
        "weights": weights_id(TINY, None),
        "preprocessing": {"views": 2, "min_scale": 0.5, "horizontal_flip": True},
        "precision": "32-true",
        "features": ["global"],
    }


def test_extracting_does_not_change_the_random_numbers_of_a_run(make):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make().split("test", ["global"])
    assert torch.equal(torch.rand(3), expected)


def test_the_origin_says_what_the_features_were_computed_with(make):
    origin = make().origin
    assert origin.backbone == "tiny"
    assert origin.architecture == TINY
    assert origin.weights == weights_id(TINY, None)
    assert origin.precision == "32-true"
    assert origin.prompts == hashlib.sha256(json.dumps(PROMPTS).encode()).hexdigest()
    assert make([["an a"], ["a b"], ["a c"]]).origin.prompts != origin.prompts
