"""`python -m src.depth_maps dataset=solids`: a picture of what CLIP sees of point clouds.

One row for each class, the first cloud of its test split, and one column for each view.
"""

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import Float

from src.command_line import run_command
from src.config import build, compose
from src.data.point_clouds import PointClouds
from src.errors import UserError
from src.files import replacing

FORMATS = (".png", ".pdf", ".svg")
INCHES = 1.4
"""Side of one depth map in the picture."""


def main() -> None:
    """Draw the depth maps of a dataset.

    Raises:
        UserError: the dataset holds no point clouds to draw, or cannot be read; or the output is
            no file that a picture can be written to.
    """
    parser = argparse.ArgumentParser(prog="python -m src.depth_maps", description=__doc__)
    parser.add_argument("settings", nargs="*", help="e.g. dataset=modelnet10 dataset.views=10")
    parser.add_argument("--output", type=Path, help="default: depth_maps_<dataset>.png")
    arguments = parser.parse_args()
    dataset = compose(arguments.settings).dataset
    clouds = build(dataset.reader)
    if not isinstance(clouds, PointClouds):
        raise UserError(f"dataset={dataset.name} holds no point clouds: choose one that does.")
    path = arguments.output or Path(f"depth_maps_{dataset.name}.png")
    if path.suffix.lower() not in FORMATS or path.is_dir():
        raise UserError(f"--output {path} is no picture's file: end it in {', '.join(FORMATS)}.")
    if not clouds.splits["test"]:
        raise UserError(f"dataset={dataset.name} has no test clouds: there is nothing to draw.")
    first = {item.label: item for item in reversed(clouds.splits["test"])}
    names = [clouds.class_names[label] for label in sorted(first)]
    points = np.stack([clouds.load(first[label]) for label in sorted(first)])
    draw(points, names, clouds.views, path)
    print(f"wrote {path}: {len(names)} classes, {clouds.views} views of each")


def draw(points: Float[np.ndarray, "n p 3"], names: list[str], views: int, path: Path) -> None:
    """Write a picture of the depth maps: near points are bright, the background is black."""
    import torch
    from matplotlib.figure import Figure

    from src.clip import projection

    maps = projection.depth_maps(torch.from_numpy(points), views).numpy()
    shown = np.where(maps > 0, projection.DISTANCE[views] + 1 - maps + 0.3, 0)
    figure = Figure(figsize=(INCHES * views, INCHES * len(names)), layout="constrained")
    grid = figure.subplots(len(names), views, squeeze=False)
    for axes, name, row in zip(grid, names, shown, strict=True):
        axes[0].set_ylabel(name, parse_math=False)
        for axis, image in zip(axes, row, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=2.3, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(grid[0], projection.NAMES[views], strict=True):
        axis.set_title(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    run_command(main)
