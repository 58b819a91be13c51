from collections import Counter
from pathlib import Path

import hydra
import numpy as np
from omegaconf import OmegaConf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from src.data import digits

CONFIG = Path(__file__).parents[2] / "conf/dataset/digits.yaml"
SPLIT = "ecf14d7a00f2c7b7"


def test_pixels_are_white_on_black_bytes():
    dataset = digits.read()
    assert dataset.pixels.shape == (1797, 8, 8)
    assert dataset.pixels.dtype == np.uint8
    assert (dataset.pixels.min(), dataset.pixels.max()) == (0, 255)
    assert dataset.load(dataset.splits["test"][0]).mode == "RGB"


def test_images_labels_and_split_are_scikit_learns():
    dataset, published = digits.read(), load_digits()
    np.testing.assert_array_equal(dataset.pixels, np.round(published.images * 255 / 16))
    assert dataset.class_names == [str(name) for name in published.target_names]
    train, rest = train_test_split(
        range(1797), train_size=0.4, stratify=published.target, random_state=0
    )
    val, test = train_test_split(
        rest, train_size=1 / 3, stratify=published.target[rest], random_state=0
    )
    for name, rows in (("train", train), ("val", val), ("test", test)):
        expected = [(str(row), published.target[row]) for row in sorted(rows)]
        assert [(item.key, item.label) for item in dataset.splits[name]] == expected


def test_splits_partition_the_images_40_20_40():
    splits = digits.read().splits
    rows = [int(item.key) for items in splits.values() for item in items]
    assert sorted(rows) == list(range(1797))
    assert {name: len(items) for name, items in splits.items()} == {
        "train": 718,
        "val": 359,
        "test": 720,
    }


def test_splits_are_stratified():
    splits = digits.read().splits
    total = Counter(item.label for items in splits.values() for item in items)
    for share, name in ((0.4, "train"), (0.2, "val"), (0.4, "test")):
        count = Counter(item.label for item in splits[name])
        assert all(abs(count[label] - share * total[label]) <= 1.5 for label in range(10))


def test_labels_index_the_class_names():
    dataset = digits.read()
    assert list(dataset.class_names) == list("0123456789")
    # The first ten images of the set show 0 to 9 in turn.
    labels = {int(item.key): item.label for items in dataset.splits.values() for item in items}
    assert [labels[row] for row in range(10)] == list(range(10))


def test_split_and_pixels_never_change():
    dataset = digits.read()
    assert dataset.fingerprint(dataset.splits["test"])[:16] == SPLIT


def test_config_names_this_reader_and_one_blank_per_template():
    config = OmegaConf.load(CONFIG)
    assert hydra.utils.instantiate(config.reader).class_names == digits.read().class_names
    assert [template.count("{}") for template in config.templates] == [1]
