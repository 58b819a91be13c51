"""Throughput of `src.clip.projection` against plain ways to the same depth maps.

1,024 clouds of 2,048 points, 6 views, in batches of 64, on one thread. The loop over points sees a
sample of the clouds.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import machine
from benchmarks.side_by_side import Figure, take_turns
from src.clip import projection
from src.clip.projection import NEAR, depth_maps, rotations

CLOUDS, POINTS, VIEWS, BATCH = 1024, 2048, 6, 64
RESOLUTION, DISTANCE = projection.RESOLUTION[VIEWS], projection.DISTANCE[VIEWS]
SAMPLE = 2


def loop_over_points(points: Float[Tensor, "n p 3"], views: int) -> Float[Tensor, "n v h w"]:
    """Draw one point after another, in plain Python."""
    maps = torch.zeros(len(points), views, RESOLUTION, RESOLUTION)
    for cloud, images in zip(points.tolist(), maps, strict=True):
        for rotation, image in zip(rotations(views).tolist(), images, strict=True):
            number: dict[tuple[int, int], int] = {}
            total: dict[tuple[int, int], float] = {}
            for px, py, pz in cloud:
                x, y, z = (a * px + b * py + c * pz for a, b, c in rotation)
                depth = z + DISTANCE
                if depth <= NEAR:
                    continue
                row = math.ceil((x / depth + 1) * RESOLUTION / 2 - 0.5)
                column = math.ceil((y / depth + 1) * RESOLUTION / 2 - 0.5)
                if 0 <= row < RESOLUTION and 0 <= column < RESOLUTION:
                    pixel = row, column
                    number[pixel] = number.get(pixel, 0) + 1
                    total[pixel] = total.get(pixel, 0.0) + 1 / depth
            for pixel, inverse in total.items():
                image[pixel] = number[pixel] / inverse
    return maps


def loop_over_views(points: Float[Tensor, "n p 3"], views: int) -> Float[Tensor, "n v h w"]:
    """Draw one view of the whole batch after another, with two scatters, as is usual in torch."""
    maps = []
    for rotation in rotations(views):
        x, y, z = (points @ rotation.T).unbind(dim=-1)
        depth = z + DISTANCE
        row = ((x / depth + 1) * RESOLUTION / 2 - 0.5).ceil()
        column = ((y / depth + 1) * RESOLUTION / 2 - 0.5).ceil()
        seen = (depth > NEAR) & (row >= 0) & (row < RESOLUTION)
        seen = seen & (column >= 0) & (column < RESOLUTION)
        pixel = torch.where(seen, row * RESOLUTION + column, 0).long()
        weight = torch.where(seen, 1 / depth, 0)
        empty = points.new_zeros(len(points), RESOLUTION * RESOLUTION)
        weights = empty.scatter_add(1, pixel, weight)
        depths = empty.scatter_add(1, pixel, weight * depth)
        maps.append(torch.where(weights > 0, depths / weights, 0))
    return torch.stack(maps, dim=1).view(len(points), views, RESOLUTION, RESOLUTION)


def figures() -> Iterator[Figure]:
    """Compare with a loop over views and with one over points."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    points = normalize(torch.randn(CLOUDS, POINTS, 3, generator=generator), dim=-1)

    def batch_by_batch(way: Callable[[Tensor, int], Tensor]) -> None:
        for batch in torch.split(points, BATCH):
            way(batch, VIEWS)

    turns = take_turns(
        ours=lambda: batch_by_batch(depth_maps),
        views=lambda: batch_by_batch(loop_over_views),
        points=lambda: loop_over_points(points[:SAMPLE], VIEWS),
    )
    rate = f"{CLOUDS / turns.median('ours'):,.0f} clouds/s"
    limit = machine.share(
        turns.median("ours"),
        operations=2 * CLOUDS * VIEWS * POINTS * 9,
        moved=4 * CLOUDS * (3 * POINTS + VIEWS * RESOLUTION**2),  # points in, depth maps out
    )
    for way, clouds, target in (("views", CLOUDS, 1.5), ("points", SAMPLE, 20.0)):
        yield Figure(
            f"depth maps of {POINTS:,} points, {VIEWS} views, beside a loop over {way}",
            rate,
            f"{clouds / turns.median(way):,.1f} clouds/s",
            turns.ratio(way) * CLOUDS / clouds,
            target,
            limit=limit,
        )
