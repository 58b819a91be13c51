"""The backbones of `conf/backbone`: each a pair that open_clip has, by its own name."""

from collections import Counter

import open_clip
import pytest
import yaml

from src.clip.licences import UNKNOWN, licence
from src.config import compose
from src.files import CONFIG_DIR

PUBLISHED = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((CONFIG_DIR / "backbone").glob("*.yaml"))
    if path.stem not in ("precomputed", "tiny")
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_backbone_is_a_pair_that_open_clip_has_with_the_right_gelu(name):
    backbone = PUBLISHED[name]
    keys = ["name", "architecture", "pretrained", "licence", "precision", "batch_size"]
    assert list(backbone) == keys
    pair = (backbone["architecture"], backbone["pretrained"])
    assert pair in open_clip.list_pretrained()
    trained = open_clip.get_pretrained_cfg(*pair).get("quick_gelu", False)
    assert trained == open_clip.get_model_config(pair[0]).get("quick_gelu", False)
    assert backbone["precision"] == "auto"
    assert 1 <= backbone["batch_size"] <= 32
    assert licence(pair[1], pair[0]) != UNKNOWN


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_backbone_has_its_own_name_in_tables(name):
    assert PUBLISHED[name]["name"] == "${backbone_name:}"
    assert compose([f"backbone={name}"]).backbone.name == name


def test_no_two_backbones_are_the_same():
    pairs = Counter((one["architecture"], one["pretrained"]) for one in PUBLISHED.values())
    assert max(pairs.values()) == 1
    assert len(pairs) > 20


def test_the_largest_images_come_in_the_smallest_batches():
    """Images of 384 pixels have as many tokens as several of 224."""
    for name, backbone in PUBLISHED.items():
        vision = open_clip.get_model_config(backbone["architecture"])["vision_cfg"]
        if vision["image_size"] > 300:
            assert backbone["batch_size"] <= 16, name
