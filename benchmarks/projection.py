"""Throughput of `src.features.projection` against plain ways to the same depth maps.

python -m benchmarks.projection

1,024 clouds of 2,048 points, 6 views, in batches of 64, on one thread. The three take turns, so
that whatever else the machine does strikes them alike; the loop over points sees a sample.
Printed are the median clouds per second, and the median of the ratios round by round.
"""

import math
import statistics
import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from src.features.projection import DISTANCE, NEAR, RESOLUTION, depth_maps, rotations

CLOUDS, POINTS, VIEWS, BATCH = 1024, 2048, 6, 64
SAMPLE = 2
ROUNDS = 5
TARGETS = {"loop over views": 1.5, "loop over points": 20.0}


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
                row = math.ceil((x / depth + 1) * RESOLUTION / 2)
                column = math.ceil((y / depth + 1) * RESOLUTION / 2)
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
        row = ((x / depth + 1) * RESOLUTION / 2).ceil()
        column = ((y / depth + 1) * RESOLUTION / 2).ceil()
        seen = (depth > NEAR) & (row >= 0) & (row < RESOLUTION)
        seen = seen & (column >= 0) & (column < RESOLUTION)
        pixel = torch.where(seen, row * RESOLUTION + column, 0).long()
        weight = torch.where(seen, 1 / depth, 0)
        empty = points.new_zeros(len(points), RESOLUTION * RESOLUTION)
        weights = empty.scatter_add(1, pixel, weight)
        depths = empty.scatter_add(1, pixel, weight * depth)
        maps.append(torch.where(weights > 0, depths / weights, 0))
    return torch.stack(maps, dim=1).view(len(points), views, RESOLUTION, RESOLUTION)


def clouds_per_second(
    way: Callable[[Tensor, int], Tensor], points: Float[Tensor, "n p 3"]
) -> float:
    """Draw all clouds, batch by batch."""
    began = time.perf_counter()
    for batch in points.split(BATCH):
        way(batch, VIEWS)
    return len(points) / (time.perf_counter() - began)


def main() -> None:
    """Measure, print, and fail where a target is missed."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    points = normalize(torch.randn(CLOUDS, POINTS, 3, generator=generator), dim=-1)
    rows: dict[str, list[float]] = {"projection": [], **{name: [] for name in TARGETS}}
    depth_maps(points[:BATCH], VIEWS)
    for _ in range(ROUNDS):
        rows["projection"].append(clouds_per_second(depth_maps, points))
        rows["loop over views"].append(clouds_per_second(loop_over_views, points))
        rows["loop over points"].append(clouds_per_second(loop_over_points, points[:SAMPLE]))
    print(f"projection        {statistics.median(rows['projection']):10,.1f} clouds/s")
    missed = []
    for name, target in TARGETS.items():
        ratio = statistics.median(
            ours / other for ours, other in zip(rows["projection"], rows[name], strict=True)
        )
        print(
            f"{name:17} {statistics.median(rows[name]):10,.1f} clouds/s, 1 / {ratio:,.1f} of it "
            f"(target: 1 / {target:g} or less)"
        )
        if ratio < target:
            missed.append(name)
    if missed:
        raise SystemExit(f"too slow beside: {', '.join(missed)}")


if __name__ == "__main__":
    main()
