"""Calipers from Python, as a notebook uses it."""

import logging
import os
import random

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from src.api import fit, load, read_folder
from src.clip.model import FrozenClip
from src.config import compose
from src.data import digits
from src.errors import UserError
from src.files import CONFIG_DIR
from src.job.composing import compose_plainly
from tests.cli import calipers
from tests.heads.contract import METHODS

TEMPLATES = ['a photo of the number: "{}".']
TRAINED = ("clip_adapter", "coop", "prolip", "lp_plus_plus")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_composed_without_hydra_is_what_hydra_composes(method):
    typed = [f"method={method}", "dataset=folder", "dataset.path=photos", "backbone=tiny"]
    theirs = compose([*typed, "dataset.name=given", "shots=4"])
    dataset = {"name": "given", "templates": ["a photo of a {}."]}
    selection = None if theirs.selection.name == "val_few_shot" else theirs.selection.name
    ours = compose_plainly(method, "tiny", selection, dataset, {"shots": 4, "paths.output": "."})
    if selection is None:
        theirs.selection = OmegaConf.load(CONFIG_DIR / "selection/fixed.yaml")
    for name in ("method", "backbone", "selection", "trainer", "shots", "seed", "batch_size"):
        assert resolved(ours[name]) == resolved(theirs[name]), name


def resolved(value):
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


@pytest.fixture(scope="module")
def pictures():
    """Give 4 support, 2 validation and 6 test arrays of each digit, with labels."""
    data = digits.read()
    parts = {"train": 4, "val": 2, "test": 6}
    drawn = {}
    for split, count in parts.items():
        items = [
            item
            for label in range(10)
            for item in [one for one in data.splits[split] if one.label == label][:count]
        ]
        drawn[split] = [data.pixels[int(i.key)] for i in items], [i.label for i in items]
    return drawn, list(data.class_names)


def adapt(pictures, **settings):
    drawn, names = pictures
    return fit(*drawn["train"], names, backbone="tiny", templates=TEMPLATES, **settings)


@pytest.mark.parametrize("method", ["zero_shot", "calip", "tip_adapter", "gda", *TRAINED])
def test_five_lines_adapt_save_load_and_predict(pictures, tmp_path, method):
    few = {"method.training.epochs": 2} if method in TRAINED else {}
    classifier = adapt(pictures, method=method, settings=few)
    images, labels = pictures[0]["test"]
    probabilities = classifier.predict_proba(images)
    assert probabilities.shape == (60, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    named = [classifier.class_names[label] for label in probabilities.argmax(axis=1)]
    assert classifier.predict(images) == named
    right = (probabilities.argmax(axis=1) == labels).mean()
    assert right > 0.3  # chance is 0.1
    classifier.save(tmp_path / "mine")
    again = load(tmp_path / "mine")
    np.testing.assert_array_equal(again.predict_proba(images), probabilities)
    assert again.about.adapted_on["images"] == 40


def test_paths_images_and_arrays_are_the_same_pictures(pictures, tmp_path):
    classifier = adapt(pictures, method="tip_adapter")
    arrays = pictures[0]["test"][0][:5]
    for row, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{row}.png")
    expected = classifier.predict_proba(arrays)
    paths = sorted(tmp_path.glob("*.png"))
    for images in (
        paths,
        list(map(str, paths)),
        [Image.open(path) for path in paths],
        np.stack(arrays),
    ):
        np.testing.assert_array_equal(classifier.predict_proba(images), expected)
    for single in (paths[0], str(paths[0]), Image.open(paths[0]), arrays[0]):
        np.testing.assert_allclose(classifier.predict_proba(single), expected[:1], rtol=1e-5)
    coloured = np.repeat(arrays[0][..., None], 3, axis=2)
    np.testing.assert_allclose(classifier.predict_proba(coloured), expected[:1], rtol=1e-5)


def test_features_are_those_of_clip(pictures):
    classifier = adapt(pictures, method="calip")
    images = pictures[0]["test"][0][:3]
    found = classifier.features(images)
    assert found.dtype == np.float32
    clip = FrozenClip.load(f"local-dir:{CONFIG_DIR.parent / 'src/clip/tiny'}", None)
    ready = torch.stack(
        [clip.preprocess(Image.fromarray(image).convert("RGB")) for image in images]
    )
    np.testing.assert_allclose(found, clip.encode_image(ready).numpy(), atol=2e-3)


@pytest.mark.parametrize("method", ["linear_probe", "ss_text", "tip_adapter"])
def test_it_is_the_classifier_of_a_run_on_the_same_pictures(pictures, tmp_path, method):
    drawn, names = pictures
    for split in ("train", "val", "test"):
        for row, (image, label) in enumerate(zip(*drawn[split], strict=True)):
            path = tmp_path / "photos" / split / names[label] / f"{row:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    whole = "method.support.crops=null"  # crops depend on a file's name
    done = calipers(
        tmp_path, f"method={method}", "backbone=tiny", "dataset=folder", "shots=4", "logger=none",
        f"dataset.path={tmp_path / 'photos'}", f"dataset.templates={TEMPLATES}",
        "selection=fixed", *([] if method == "linear_probe" else [whole]),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    images, labels, class_names = read_folder(tmp_path / "photos/train")
    assert class_names == sorted(names)
    settings = None if method == "linear_probe" else {"method.support.crops": None}
    ours = fit(images, labels, class_names, method, "tiny", templates=TEMPLATES, settings=settings)
    tests, _, _ = read_folder(tmp_path / "photos/test")
    theirs = load(tmp_path / "output").predict_proba(tests)
    np.testing.assert_allclose(ours.predict_proba(tests), theirs, atol=1e-4)


def test_validation_images_choose_the_settings(pictures):
    default = adapt(pictures, method="tip_adapter")
    chosen = adapt(pictures, method="tip_adapter", validation=pictures[0]["val"])
    assert default.about.settings["alpha"] == 1.17
    assert chosen.about.settings["alpha"] != 1.17
    assert chosen.about.adapted_on["selection"] == "val"
    assert chosen.about.adapted_on["validation_images"] == 20


def test_probabilities_are_calibrated_on_the_validation_images(pictures):
    raw = adapt(pictures, method="zero_shot", validation=pictures[0]["val"])
    settings = {"calibrate": "temperature"}
    calibrated = adapt(
        pictures, method="zero_shot", validation=pictures[0]["val"], settings=settings
    )
    assert calibrated.about.temperature > 1
    images = pictures[0]["test"][0]
    logits = np.log(raw.predict_proba(images).astype(np.float64)) / calibrated.about.temperature
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(calibrated.predict_proba(images), expected, rtol=1e-3, atol=1e-6)


def test_names_serve_as_labels(pictures):
    (images, labels), names = pictures[0]["train"], pictures[1]
    by_name = fit(
        images,
        [names[label] for label in labels],
        names,
        "tip_adapter",
        "tiny",
        templates=TEMPLATES,
    )
    tests = pictures[0]["test"][0]
    np.testing.assert_array_equal(
        by_name.predict_proba(tests), adapt(pictures, method="tip_adapter").predict_proba(tests)
    )


def test_nothing_outside_changes(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    classifier = adapt(pictures, method="clip_adapter", settings={"method.training.epochs": 1})
    classifier.predict(pictures[0]["test"][0])
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()) == expected
    assert "PL_GLOBAL_SEED" not in os.environ
    assert not GlobalHydra.instance().is_initialized()
    assert [logging.getLogger(n).level for n in ("lightning.pytorch", "lightning.fabric")] == levels
    assert list(tmp_path.iterdir()) == []


def test_features_that_are_kept_are_computed_once(pictures, tmp_path, monkeypatch):
    first = adapt(pictures, method="tip_adapter", features=tmp_path)
    monkeypatch.setattr(FrozenClip, "encode", None)
    again = adapt(pictures, method="gda", features=tmp_path)
    assert again.about.method == "gda"
    assert first.about.weights == again.about.weights


MISTAKES = {
    "there are 40 images and 39 labels": lambda drawn, names: fit(
        drawn["train"][0], drawn["train"][1][1:], names, backbone="tiny"
    ),
    "label 0 is 10": lambda drawn, names: fit(drawn["train"][0], [10] * 40, names, backbone="tiny"),
    "label 0 is 'eleven'": lambda drawn, names: fit(
        drawn["train"][0], ["eleven"] * 40, names, backbone="tiny"
    ),
    "no method called 'tap_adapter'": lambda drawn, names: fit(
        *drawn["train"], names, "tap_adapter", "tiny"
    ),
    "no backbone called 'tinier'": lambda drawn, names: fit(
        *drawn["train"], names, "tip_adapter", "tinier"
    ),
    "method.head.alhpa": lambda drawn, names: fit(
        *drawn["train"], names, backbone="tiny", settings={"method.head.alhpa": 1.0}
    ),
    "the support set has no image of": lambda drawn, names: fit(
        drawn["train"][0][:-4], drawn["train"][1][:-4], names, backbone="tiny", templates=TEMPLATES
    ),
    "needs validation images": lambda drawn, names: fit(
        *drawn["train"], names, backbone="tiny", settings={"calibrate": "temperature"}
    ),
    "image 0 is float32": lambda drawn, names: fit(
        [np.zeros((8, 8), np.float32)] * 10, range(10), names, backbone="tiny", templates=TEMPLATES
    ),
    "missing.png is missing": lambda drawn, names: fit(
        ["missing.png"] * 10, range(10), names, backbone="tiny", templates=TEMPLATES
    ),
    "does not know the word": lambda drawn, names: fit(
        *drawn["train"], [*names[:9], "quixotic"], backbone="tiny"
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_message(pictures, message):
    with pytest.raises(UserError, match=message):
        MISTAKES[message](*pictures)


def test_a_folder_that_is_divided_is_not_one_of_classes(tmp_path):
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / part).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / part / "0.png")
    with pytest.raises(UserError, match="is divided into splits"):
        read_folder(tmp_path)
    assert read_folder(tmp_path / "train").labels == [0, 1]
