"""`attention_images=[...]` through the command line, and what it refuses."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from src.config import build, compose, config_hash
from src.data.images import ImageArrays, Item
from src.errors import UserError
from src.features.datamodule import FeatureDataModule
from src.features.precomputed import Rows
from src.heads.calip import Calip
from src.job import attention_images
from src.methods.base import Method
from src.results import attention
from tests.cli import calipers, refused, result
from tests.methods.metrics import Accuracy


def test_the_attention_over_chosen_digits_is_drawn(tmp_path):
    earlier = tmp_path / "output/attention/3.png"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"")
    training = ("method=calip_fs", "shots=1", "method.training.epochs=1", "method.support.crops=1")
    done = calipers(tmp_path, *training, "attention_images=[0,719]", "logger=none")
    assert done.returncode == 0, done.stderr
    pictures = sorted(earlier.parent.iterdir())
    assert [path.name for path in pictures] == ["0.png", "719.png"]
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert picture.size in {(690, 751), (690, 964)}  # for three or four classes
    assert "attention_images=[0,719]" in result(tmp_path)["command"]


@pytest.mark.parametrize("classes", [2, 6])
def test_the_most_probable_classes_are_shown_and_the_true_one(tmp_path, monkeypatch, classes):
    generator = torch.Generator().manual_seed(classes)
    text = torch.randn(classes, 8, generator=generator)
    features = {
        "global": torch.randn(20, 8, generator=generator),
        "spatial": torch.randn(20, 4, 8, generator=generator),
        "label": torch.arange(20) % classes,
    }
    head = Calip(text, 5.0, 2.0, 1.12, 0.02)
    data = FeatureDataModule(head.inputs, 20, test=Rows(features))
    images = np.arange(20, dtype=np.uint8)[:, None, None].repeat(4, axis=1).repeat(4, axis=2)
    items = [Item(str(row), int(label)) for row, label in enumerate(features["label"])]
    dataset = ImageArrays(images, list("abcdef"[:classes]), {"test": items})
    pictures = {}
    monkeypatch.setattr(
        attention, "draw", lambda image, maps, path: pictures.update({path: (image, maps)})
    )
    cfg = OmegaConf.create({"attention_images": [*range(20)], "paths": {"output": str(tmp_path)}})
    attention_images.draw(cfg, dataset, Method(head, Accuracy()), data)

    probabilities = head(features["global"], features["spatial"]).softmax(dim=1).numpy()
    before, after = (each.numpy() for each in head.attention(features["spatial"]))
    for row in range(20):
        image, maps = pictures[tmp_path / f"attention/{row}.png"]
        assert image.getpixel((0, 0)) == (row, row, row)
        truth = "abcdef"[row % classes]
        top = ["abcdef"[label] for label in np.argsort(-probabilities[row])[:3]]
        assert [one.name for one in maps] == (top if truth in top else [*top, truth])
        assert [one.name for one in maps if one.is_true] == [truth]
        for one in maps:
            label = "abcdef".index(one.name)
            assert one.probability == pytest.approx(probabilities[row, label], rel=1e-5)
            np.testing.assert_allclose(one.before, before[row, :, label], rtol=1e-5)
            np.testing.assert_allclose(one.after, after[row, :, label], rtol=1e-5)
    shown = {len(maps) for _, maps in pictures.values()}
    assert shown == ({2} if classes == 2 else {3, 4})


def test_a_mistake_ends_in_one_message_before_anything_is_made(tmp_path):
    message = refused(calipers(tmp_path, "method=tip_adapter", "attention_images=[0]"))
    assert "attention_images=[0]" in message
    assert "method=calip, calip_fs or calip_fs_paper" in message
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attention_images=5"], r"give rows of the test split, as attention_images=\[0,5,17\]"),
        (["attention_images=null"], "give rows of the test split"),
        (["attention_images=[a]"], "give rows of the test split"),
        (["attention_images=[true]"], "give rows of the test split"),
        (["attention_images=[0,720]"], "has 720 test images, so there is no row 720"),
        (["attention_images=[-1]"], "no row -1. Give rows from 0 to 719"),
        (["attention_images=[0]", "on_bad_image=skip"], "leaves some out"),
        (["attention_images=[0]", "method=zero_shot"], "method=zero_shot has none"),
        (["attention_images=[0]", "dataset=solids"], "dataset=solids has none"),
    ],
)
def test_what_cannot_be_drawn_is_refused(overrides, message):
    cfg = compose([*overrides, "paths.output=."])
    with pytest.raises(UserError, match=message):
        attention_images.check(cfg, build(cfg.dataset.reader))


def test_features_without_images_are_refused():
    cfg = compose(["attention_images=[0]", "paths.output=."])
    with pytest.raises(UserError, match="draws over images"):
        attention_images.check(cfg, dataset=object())


def test_no_figure_depends_on_what_is_drawn():
    assert config_hash(compose([])) == config_hash(compose(["attention_images=[0]"]))
