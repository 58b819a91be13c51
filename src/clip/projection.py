"""Projecting point clouds to depth maps as PointCLIP does (Zhang et al., CVPR 2022, section 3.1).

Where the paper and its release differ or say nothing, the release decides: `mv_utils_zs.py` for 6
views, `mv_utils_fs.py` for 10. Angles, resolution, distance, rounding and weights are theirs.
"""

from math import pi

import torch
from jaxtyping import Float, Int
from torch import Tensor

RESOLUTION = {6: 128, 10: 224}
"""Height and width of a depth map, in pixels, by the number of views."""

DISTANCE = {6: 1.6, 10: 1.4}
"""Distance from the camera to the cloud's centre, by the number of views."""

NEAR = 1 / 16
"""Points not farther in front of the camera than this are not drawn. The release draws all up to
depth 0; of a cloud in the unit sphere, no point is nearer than 0.4."""

ROUNDING = "ceil(x - 0.5)"
"""How a coordinate becomes a pixel, for the feature store: earlier versions took ceil(x)."""

_ALL_ROUND = [(turn * pi / 2, 0.0, pi / 2) for turn in range(4)]
_POLES = [(0.0, -pi / 2, pi / 2), (0.0, pi / 2, pi / 2)]
_DIAGONALS = [(turn * pi / 4, tilt * pi / 4, pi / 2) for turn in (5, 7) for tilt in (-1, 1)]
ANGLES = {6: [*_ALL_ROUND, *_POLES], 10: [*_ALL_ROUND, *_DIAGONALS, *_POLES]}
"""Euler angles of the views, about x, y and z, in radians: the release's, in its order."""

_SIDES = ("0°", "90°", "180°", "270°")
NAMES = {
    6: (*_SIDES, "top", "bottom"),
    10: (*_SIDES, *(f"diagonal {number}" for number in range(1, 5)), "top", "bottom"),
}
"""The names of the views, in the order of `ANGLES`."""

_FRACTION = 1 << 24
"""Inverse depths are rounded to multiples of its inverse, so their sum is exact in any order."""

_CELLS_PER_PASS = 1 << 18
"""On a CPU, so that what a pass reads and writes at random stays in the cache."""


def rotations(views: int) -> Float[Tensor, "v 3 3"]:
    """Give the rotation of each view, 6 or 10: by z, then y, then x; float32."""
    x, y, z = torch.tensor(ANGLES[views], dtype=torch.float64).T
    matrix = _rotation(x, 1, 2) @ _rotation(y, 2, 0) @ _rotation(z, 0, 1)
    return matrix.round(decimals=15).float()  # This makes the cosine of a right angle exactly 0.


def depth_maps(points: Float[Tensor, "n p 3"], views: int) -> Float[Tensor, "n v h w"]:
    """Project clouds of equally many points onto every view's image plane.

    A view rotates a point to (x, y, z), with depth z + `DISTANCE`. With h half the `RESOLUTION`, it
    falls into row ⌈h x / depth + h - ½⌉ and column ⌈h y / depth + h - ½⌉, so that y, upwards in
    ModelNet's files, is upwards in the image. A pixel is the mean of its points' depths, weighted
    by their inverses, so that near points prevail: their number over the sum of the inverse depths.
    The result depends neither on the order of the points nor on the batch that a cloud is in.

    Args:
        points: float32, centred, within the unit sphere or a little beyond.
        views: 6 or 10.

    Returns:
        Float32 depths, on the points' device; 0 where there is no point. What is behind the camera
        or outside the image is left out.
    """
    rotation, side = rotations(views).to(points.device), RESOLUTION[views]
    maps = points.new_empty(points.shape[0], views, side, side)
    if torch.compiler.is_exporting():  # A graph has one pass, for any number of clouds.
        _draw(points, rotation, DISTANCE[views], maps)
        return maps
    cells = len(points) * views * (side + 2) ** 2 if points.is_cuda else _CELLS_PER_PASS
    clouds = max(1, cells // (views * (side + 2) ** 2))
    for some, target in zip(torch.split(points, clouds), torch.split(maps, clouds), strict=True):
        _draw(some, rotation, DISTANCE[views], target)
    return maps


def _rotation(angle: Float[Tensor, " v"], first: int, second: int) -> Float[Tensor, "v 3 3"]:
    """Rotate from one axis towards another."""
    matrix = torch.eye(3, dtype=angle.dtype).repeat(len(angle), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = angle.cos()
    matrix[:, second, first] = angle.sin()
    matrix[:, first, second] = -angle.sin()
    return matrix


def _draw(
    points: Float[Tensor, "n p 3"],
    rotation: Float[Tensor, "v 3 3"],
    distance: float,
    maps: Float[Tensor, "n v h w"],
) -> None:
    """Fill the depth maps of a few clouds. Arithmetic replaces masks: it is three times faster.

    Every point adds to some cell, also behind the camera: there it moves out of the image, onto a
    border of one pixel that is cut off.
    """
    side = maps.shape[-1]
    border = side + 2
    by_coordinate = rotation.transpose(0, 1).flatten(end_dim=1) @ points.mT
    x, y, depth = by_coordinate.view(points.shape[0], 3, len(rotation), -1).unbind(dim=1)
    depth = depth + distance
    behind = (NEAR - depth).relu_()
    scale = side / 2 / depth.clamp_(min=NEAR)
    row = _pixel((x * scale).sub_(behind, alpha=1e20), side)
    column = _pixel(y * scale, side)
    image = torch.arange(maps[:, :, 0, 0].numel(), device=points.device).view(*maps.shape[:2], 1)
    cell = row.mul_(border).add_(column).int() + image * border**2
    inverse = scale.mul_(_FRACTION / (side / 2)).round_().double()
    number = _add_up(cell, torch.ones_like(scale), maps)
    total = (
        _add_up(cell, inverse, maps).float().clamp_(min=1)
    )  # Where no point lies, the number is 0, and so is the quotient.
    torch.div(number.mul_(_FRACTION), total, out=maps)


def _pixel(offset: Float[Tensor, "n v p"], side: int) -> Float[Tensor, "n v p"]:
    """Find the row or column in the bordered image, given that from the image's centre."""
    return offset.add_(side / 2 - 0.5).ceil_().clamp_(-1, side).add_(1)


def _add_up(
    cell: Int[Tensor, "n v p"], value: Float[Tensor, "n v p"], like: Float[Tensor, "n v h w"]
) -> Float[Tensor, "n v h w"]:
    """Sum the values of every cell, and cut off the border."""
    border = like.shape[-1] + 2
    bordered = value.new_zeros(*like.shape[:2], border, border)
    bordered.view(-1).scatter_add_(0, cell.flatten(), value.flatten())
    return bordered[..., 1:-1, 1:-1]
