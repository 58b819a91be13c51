"""What a frozen CLIP is shown of point clouds, and under which key it is stored."""

import numpy as np
import pytest
import torch

from src.clip.crops import CloudAugmentation, Crop
from src.config import build, compose
from src.data.images import Item
from src.features.point_clouds import DepthMapClip
from src.job.assembly import make_features

CLOUD = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


def look(number, key="a"):
    clip = object.__new__(DepthMapClip)
    transform = DepthMapClip.transform(clip, CloudAugmentation(3))
    return transform(CLOUD, Crop(Item(key, 0), number)).view(torch.float32).numpy()


def test_copies_are_scaled_and_moved_as_in_pointclip():
    """Each axis is scaled by 2/3 to 3/2, and then moved by up to 0.2."""
    fitted = np.array(
        [
            np.polyfit(CLOUD[:, axis], look(number, key)[:, axis], 1)
            for number in range(40)
            for key in ("a", "b")
            for axis in range(3)
        ]
    )
    scale, shift = fitted.T
    assert 2 / 3 - 1e-4 <= scale.min() < 0.72
    assert 1.4 < scale.max() <= 3 / 2 + 1e-4
    assert -0.2 - 1e-4 <= shift.min() < -0.18
    assert 0.18 < shift.max() <= 0.2 + 1e-4
    assert len({*scale.round(4)}) > 200, "an axis, a copy or a cloud has the scale of another"


def test_a_copy_is_the_same_every_time_and_without_a_number_it_is_the_cloud():
    assert np.array_equal(look(1), look(1))
    assert np.array_equal(look(None), CLOUD)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Makes the features of solids by settings, all of them in one store."""
    folder = tmp_path_factory.mktemp("clouds")

    def make(*settings):
        cfg = compose(
            [
                "dataset=solids", "dataset.per_class={train: 1, val: 1, test: 1}", *settings,
                f"paths.features={folder}", f"paths.output={folder}",
            ]
        )  # fmt: skip
        return make_features(cfg, "solids", build(cfg.dataset.reader))

    return make


def test_only_a_method_that_asks_for_copies_sees_them(sources):
    source = sources("dataset.points=64")
    plain, _ = source.support(1, 0, ["global"], None)
    copies, label = source.support(1, 0, ["global"], CloudAugmentation(2))
    assert plain["global"].shape == (1, 10, 6, 64)
    assert copies["global"].shape == (2, 10, 6, 64)
    assert label.tolist() == list(range(10))
    assert not torch.equal(copies["global"][0], plain["global"][0])
    assert not torch.equal(copies["global"][0], copies["global"][1])


def test_other_points_and_other_views_are_other_features(sources):
    keys = [
        sources(*settings)._key("test", "f", ["global"])
        for settings in (
            ["dataset.points=64"], ["dataset.points=65"], ["dataset.points=64", "dataset.views=10"],
        )
    ]  # fmt: skip
    described = [key["preprocessing"] for key in keys]
    assert len({str(one) for one in described}) == 3
    assert all(one["rounding"] == "ceil(x - 0.5)" for one in described)
    assert [one["resolution"] for one in described] == [128, 128, 224]


@pytest.mark.parametrize("dataset", ["modelnet10", "modelnet40", "scanobjectnn"])
def test_pointclip_selects_its_own_views_and_prompt(dataset):
    few, zero = (compose([f"dataset={dataset}", f"method={m}"]) for m in ("pointclip", "calip"))
    assert (few.dataset.views, list(few.dataset.templates)) == (10, ["point cloud of a big {}."])
    assert zero.dataset.views == 6
    assert list(zero.dataset.templates) == ["point cloud depth map of a {}."]
    assert few.dataset.points == zero.dataset.points == 1024
    given = compose([f"dataset={dataset}", "method=pointclip", "dataset.views=6"])
    assert given.dataset.views == 6
