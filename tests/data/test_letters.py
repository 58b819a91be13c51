from collections import Counter
from pathlib import Path

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf

from src.data import letters
from src.data.images import ImageArrays

CONFIG = Path(__file__).parents[2] / "conf/dataset/letters.yaml"


@pytest.fixture(scope="module")
def dataset() -> ImageArrays:
    return letters.read()


def test_every_class_has_20_train_8_val_and_30_test_images(dataset):
    assert "".join(dataset.class_names) == "abcdefghijklmnopqrstuvwxyz"
    for split, count in (("train", 20), ("val", 8), ("test", 30)):
        labels = Counter(item.label for item in dataset.splits[split])
        assert labels == dict.fromkeys(range(26), count)


def test_no_image_occurs_twice(dataset):
    assert dataset.pixels.shape == (1508, 32, 32)
    assert dataset.pixels.dtype == np.uint8
    assert len(np.unique(dataset.pixels, axis=0)) == len(dataset.pixels)


def test_two_readings_are_equal(dataset):
    assert np.array_equal(letters.read().pixels, dataset.pixels)


def test_letters_stand_out_from_the_ground(dataset):
    contrast = dataset.pixels.astype(float).std(axis=(1, 2))
    assert contrast.min() > 15


def test_config_names_this_reader_and_one_blank_per_template(dataset):
    config = OmegaConf.load(CONFIG)
    assert hydra.utils.instantiate(config.reader).class_names == dataset.class_names
    assert [template.count("{}") for template in config.templates] == [1]
