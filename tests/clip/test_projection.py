import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from src.clip.projection import ANGLES, NAMES, depth_maps, rotations
from src.config import build, compose

CAMERAS = {6: (128, 1.6), 10: (224, 1.4)}
"""The resolution and the distance of PointCLIP's `mv_utils_zs.py` and `mv_utils_fs.py`."""


def turn(angle, first, second):
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[second, first], matrix[first, second] = math.sin(angle), -math.sin(angle)
    return matrix


def plain(points, views):
    """Draw one point after another by PointCLIP's published rule, in float32.

    The image coordinate x runs from 0 to the resolution, and the pixel is ceil(x - 0.5).
    """
    f = np.float32
    side, distance = CAMERAS[views]
    maps = np.zeros((len(points), views, side, side))
    for maps_of_cloud, cloud in zip(maps, points.numpy(), strict=True):
        for image, angles in zip(maps_of_cloud, ANGLES[views], strict=True):
            rx, ry, rz = (
                turn(a, *axes) for a, axes in zip(angles, [(1, 2), (2, 0), (0, 1)], strict=True)
            )
            rotation = np.round(rx @ ry @ rz, 15).astype(f)
            weights = np.zeros_like(image)
            numbers = np.zeros_like(image)
            for point in cloud:
                x, y, z = rotation @ point
                depth = z + f(distance)
                if depth < 1 / 16:
                    continue
                row, column = (
                    math.ceil((coordinate / depth + f(1)) * f(side) / f(2) - f(0.5))
                    for coordinate in (x, y)
                )
                if 0 <= row < side and 0 <= column < side:
                    weights[row, column] += 1 / float(depth)
                    numbers[row, column] += 1
            np.divide(numbers, weights, out=image, where=weights > 0)
    return maps


def differing(points, views):
    """Count the pixels that differ from the published rule's; few, where a border is rounded."""
    return int((np.abs(depth_maps(points, views).numpy() - plain(points, views)) > 1e-3).sum())


def cloud(seed, n=2, p=40, spread=1.0):
    return spread * torch.randn(n, p, 3, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([6, 10]), st.sampled_from([0.02, 0.4, 2.0]))
def test_it_is_a_loop_over_points_wherever_they_lie(seed, views, spread):
    """The points lie on few pixels, in the unit sphere, or behind the camera and off the frame."""
    assert differing(cloud(seed, spread=spread), views) <= 2


def test_the_depth_maps_of_solids_are_those_of_the_published_rule():
    solids = build(compose(["dataset=solids"]).dataset.reader)
    items = solids.splits["test"][::13][:24]
    points = torch.from_numpy(np.stack([solids.load(item) for item in items]))
    assert points.shape == (24, 2048, 3)
    assert differing(points, 6) <= 4
    assert differing(points, 10) <= 4


def test_a_pixel_is_centred_on_its_number_and_ends_with_its_border():
    # In the first view a point (x, y, z) has depth z + 1.6, row 64 - 64 y and column 64 + 64 x.
    steps = torch.tensor([-63.5, -32.0, -0.5, 0.0, 0.5, 31.75, 63.5]) / 64
    grid = torch.cartesian_prod(steps, steps)
    points = torch.cat([grid, torch.full((len(grid), 1), -0.6)], dim=1).unsqueeze(0)
    rows, columns = depth_maps(points, 6)[0, 0].nonzero().T
    assert sorted(set(columns.tolist())) == [0, 32, 63, 64, 96, 127]
    assert sorted(set(rows.tolist())) == [0, 32, 63, 64, 96, 127]
    assert differing(points, 6) == 0
    beyond = points + torch.tensor([1e-5, -1e-5, 0])
    rows, columns = depth_maps(beyond, 6)[0, 0].nonzero().T
    assert sorted(set(columns.tolist())) == [1, 32, 64, 65, 96]
    assert sorted(set(rows.tolist())) == [1, 32, 64, 65, 96]


def test_a_pixel_is_the_mean_weighted_towards_the_near_points():
    points = torch.tensor([[[0.0, 0.0, -0.6], [0.0, 0.0, 0.4]]])  # at depths 1 and 2
    image = depth_maps(points, 6)[0, 0]
    assert image[64, 64].item() == pytest.approx((1 * 1 + 0.5 * 2) / 1.5)
    assert (image > 0).sum() == 1


def test_what_is_behind_the_camera_or_outside_the_frame_is_not_drawn():
    hidden = [[0.0, 0.0, -1.6], [0.0, 0.0, -2.0], [0.3, 0.2, -3.0], [0.0, 5.0, 0.0], [-5.0, 0, 0]]
    assert not depth_maps(torch.tensor([hidden]), 6)[0, 0].any()


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([6, 10]), st.integers(1, 33))
def test_neither_the_batch_nor_the_order_of_points_changes_a_map(seed, views, p):
    points = cloud(seed, n=5, p=p)
    maps = depth_maps(points, views)
    assert torch.equal(depth_maps(points[3:4], views), maps[3:4])
    assert torch.equal(depth_maps(points.flip(1), views), maps)


def test_the_unit_sphere_fills_the_image_upright():
    points = normalize(cloud(0, n=1, p=3000), dim=-1)
    top = points[:, points[0, :, 1] > 0.5]
    sides = depth_maps(top, 10)[0, :4]
    assert (sides[:, :112] > 0).sum() > 20 * (sides[:, 112:] > 0).sum()
    for views, nearest, farthest in ((6, 0.6, 2.6), (10, 0.4, 2.4)):
        inside = depth_maps(points, views)
        assert inside[inside > 0].min() >= nearest
        assert inside.max() <= farthest


@pytest.mark.parametrize("views", [6, 10])
def test_views_are_different_rotations_with_a_name_each(views):
    rotation = rotations(views)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(views, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(views))
    assert len(set(NAMES[views])) == len(rotation.unique(dim=0)) == views
    # "top" looks down, so high points are near.
    high = depth_maps(torch.tensor([[[0.0, 1.0, 0.0]]]), views)[0, NAMES[views].index("top")]
    assert high.max().item() == pytest.approx(CAMERAS[views][1] - 1)
