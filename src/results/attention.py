"""Pictures of CALIP's attention: how much each position of an image counts for a class."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

from src.files import replacing
from src.results.formats import spreadsheet
from src.results.plots import CREATOR, STYLE, WIDTH, short

FOLDER = "attention"
TOP = 3
"""Classes shown, the most probable ones; and the true one, if it is not among them."""
SIDE = 224
"""The side, in pixels, of the square in the middle of an image that CLIP sees."""
DPI = 150
ROW, REST = 1.42, 0.75
"""The height, in inches, of a class and of the headings and the scale together."""
NUMBERS = "Numbers"
NAME = 18
"""Letters of a class's name that the height of its row has room for."""


class ClassMap(NamedTuple):
    """The attention of one class.

    Attributes:
        name: the name of the class.
        probability: the probability that the method gives it, 0 to 1.
        is_true: whether it is the image's own class.
        before: float32 `[s]`, its attention over the positions before blending, row by row from the
            top left. The positions form a square, and the attention sums to 1.
        after: the same after blending.
    """

    name: str
    probability: float
    is_true: bool
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def class_maps(
    class_names: Sequence[str],
    probabilities: NDArray[np.float32],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    truth: int | None = None,
) -> list[ClassMap]:
    """Choose the classes of an image that are shown, the most probable one first.

    Args:
        class_names: in the order of the labels.
        probabilities: float32 `[c]`, that of each class, 0 to 1.
        before: float32 `[s, c]`, the attention of each class over the positions before blending,
            as `src.heads.base.Attends` gives it.
        after: the same after blending.
        truth: the label of the image's own class; None where it is not known.
    """
    top = np.argsort(-probabilities, kind="stable")[:TOP].tolist()
    shown = dict.fromkeys(top if truth is None else [*top, truth])
    return [
        ClassMap(
            class_names[label],
            float(probabilities[label]),
            label == truth,
            before[:, label],
            after[:, label],
        )
        for label in shown
    ]


def draw(image: Image.Image, maps: Sequence[ClassMap], path: Path) -> None:
    """Write what `png` draws."""
    with replacing(path) as temporary:
        temporary.write_bytes(png(image, maps))


def png(image: Image.Image, maps: Sequence[ClassMap]) -> bytes:
    """Draw the image, and the attention of each class over it, one class below the other.

    All maps have one scale. Its middle, 1, stands for attention that is equal everywhere: red
    positions get more, and blue positions get less. The PNG holds its numbers too, as CSV in the
    text named `NUMBERS`.
    """
    square = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)
    grids = [[_grid(one.before), _grid(one.after)] for one in maps]
    extreme = float(np.abs(np.array(grids) - 1).max()) or 1.0  # 0 where all attention is equal
    with rc_context(STYLE | {"axes.grid": False}):
        size = (WIDTH, REST + ROW * len(maps))
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        axes = figure.subplots(len(maps), 3, squeeze=False)
        axes[0, 0].imshow(square)
        for axis, title in zip(
            axes[0], ("image", "before blending", "after blending"), strict=True
        ):
            axis.set_title(title, fontsize=9)
        for row, (one, pair) in enumerate(zip(maps, grids, strict=True)):
            for axis, grid in zip(axes[row, 1:], pair, strict=True):
                # The image is drawn pale, so that the colours over it stay those of the scale.
                axis.imshow(square.convert("L"), cmap="gray", vmin=-400, vmax=255)
                shade = axis.imshow(
                    grid,
                    cmap="RdBu_r",
                    norm=CenteredNorm(1, extreme),
                    alpha=0.6,
                    extent=(-0.5, SIDE - 0.5, SIDE - 0.5, -0.5),
                )
            mark = " (true)" if one.is_true else ""
            label = f"{short(one.name, NAME)}\n{100 * one.probability:.1f} %{mark}"
            axes[row, 1].set_ylabel(label)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        bar = figure.colorbar(shade, ax=axes, location="bottom", aspect=40, pad=0.02)
        bar.set_label("attention, 1 where it is equal everywhere")
        bar.outline.set_visible(False)
        bar.ax.ticklabel_format(useOffset=False)
        bar.ax.locator_params(nbins=5)
        drawn = BytesIO()
        within = {"Software": CREATOR, NUMBERS: _numbers(maps)}
        figure.savefig(drawn, format="png", metadata=within)
        return drawn.getvalue()


def _numbers(maps: Sequence[ClassMap]) -> str:
    """Write a line for each row of positions of each map."""
    rows = pd.DataFrame(
        {
            "class": f"{one.name}{' (true)' if one.is_true else ''}",
            "probability in %": f"{100 * one.probability:.1f}",
            "blending": blending,
            "row": str(row),
            **{f"column {column}": f"{value:.3f}" for column, value in enumerate(values, 1)},
        }
        for one in maps
        for blending, attention in (("before", one.before), ("after", one.after))
        for row, values in enumerate(_grid(attention), 1)
    )
    return spreadsheet(rows)


def _grid(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    side = math.isqrt(len(attention))
    return len(attention) * attention.reshape(side, side)
