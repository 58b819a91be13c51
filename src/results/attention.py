"""Pictures of CALIP's attention: what each position of an image says of a class."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.files import replacing

FOLDER = "attention"
SIDE = 224
"""Pixels of the square that CLIP sees of an image, its middle."""


class ClassMap(NamedTuple):
    """The attention of one class: its name, its probability (0 to 1), and its maps `[s]`."""

    name: str
    probability: float
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def draw(image: Image.Image, truth: str, maps: Sequence[ClassMap], path: Path) -> None:
    """Write a PNG: the image, and for each class its attention before and after blending.

    Both maps of a class have one scale, so that they can be compared.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pixels = np.asarray(_middle(image))
    figure = Figure(figsize=(2 * (1 + len(maps)), 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1 + len(maps))
    axes[0, 0].set_title(truth, fontsize=9)
    axes[0, 0].imshow(pixels)
    axes[1, 0].set_axis_off()
    for column, one in enumerate(maps, start=1):
        axes[0, column].set_title(f"{one.name}, {one.probability:.0%}", fontsize=9)
        highest = float(max(one.before.max(), one.after.max()))
        for row, (when, values) in enumerate((("before", one.before), ("after", one.after))):
            axis = axes[row, column]
            axis.imshow(pixels)
            axis.imshow(
                _grid(values), cmap="magma", vmin=0.0, vmax=highest, alpha=0.6,
                extent=(-0.5, SIDE - 0.5, SIDE - 0.5, -0.5), interpolation="bicubic",
            )  # fmt: skip
            axis.set_ylabel(when, fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _middle(image: Image.Image) -> Image.Image:
    scale = SIDE / min(image.size)
    width, height = (max(SIDE, round(scale * side)) for side in image.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + SIDE, top + SIDE))


def _grid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    side = math.isqrt(len(values))
    return values.reshape(side, -1)
