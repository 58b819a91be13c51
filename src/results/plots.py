"""The figures of a report, as SVG that is read at the same size on a desk, a phone and paper.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart. Each has a marker
of its own, so that a grey print can be read too.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from src.results.marks import marks
from src.results.metrics import CALIBRATION_BINS
from src.results.names import shown
from src.results.outcome import Outcome

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6f4fa0", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
CREATOR = "Calipers, python -m src.report"
"""Written into each figure, so that a report knows its own figures among others in a folder."""
INK, PALE, GRID, GROUND = "#222222", "#cfd6dc", "#e6e9ec", "#ffffff"
IN_CELLS = ("#000000", "#fefefe")
"""Numbers on the map of a confusion matrix, which is the same on a dark page."""
DARK = {
    INK: "#dfe4e8", PALE: "#56616b", GRID: "#333c44", GROUND: "#14181c", COLOURS[0]: "#4aa8e0",
    COLOURS[1]: "#f0803c", COLOURS[2]: "#25bd94", COLOURS[6]: "#ab8fe0", COLOURS[7]: "#a4abb1",
}  # fmt: skip
"""What takes the place of a colour where a dark page is preferred."""
WIDTH, HEIGHT = 4.6, 3.3  # inches: narrow enough that a phone need not shrink the letters much
NAMED = 26
"""The confusion matrix names its classes up to so many."""
COUNTED = 12
"""The cells of the confusion matrix hold their numbers up to so many classes."""
BARS = 32
"""How many classes have a bar; if there are more, only the lowest and the highest are shown."""
LINE, BAR = 0.2, 0.11
"""Inches between the names, and between the bars, of average ranks."""
STYLE = {
    "text.parse_math": False,  # names are drawn as they are, whatever a dollar sign means in them
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "calipers",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def accuracy_by_shots(
    cells: pd.DataFrame, styles: Sequence[str], quantity: str = "top-1 accuracy"
) -> bytes:
    """Draw accuracy against shots with 95 % intervals; methods at 0 shots are horizontal lines.

    Args:
        cells: the rows of `summarise` of one dataset.
        styles: every label of the report. The place of a label decides its colour and its marker.
        quantity: what the accuracy is, in words.
    """
    with matplotlib.rc_context(STYLE):
        labels = list(cells["label"].unique())
        rows = -(-len(labels) // 2)
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.19 * rows), layout="constrained")
        axes = figure.subplots()
        for place, label in enumerate(labels):
            group = cells[cells["label"] == label].sort_values("shots")
            number = styles.index(label)
            look: dict[str, Any] = {
                "color": COLOURS[number % len(COLOURS)],
                "label": shown(label) + marks(*group["cell"]),
            }
            mean = np.array([cell.mean for cell in group["cell"]])
            spread = np.array([cell.interval or 0.0 for cell in group["cell"]])
            if (group["shots"] == 0).all():
                dashes = (0, (4 + 2 * (number % 3), 2))
                axes.axhline(mean[0], linestyle=dashes, **look)
                continue
            # The points are moved apart a little, or the intervals would cover one another.
            nudge = 2 ** (0.05 * (place - len(labels) / 2))
            axes.errorbar(
                group["shots"] * nudge,
                mean,
                spread,
                marker=MARKERS[number % len(MARKERS)],
                linestyle="-" if number < len(COLOURS) else "--",
                elinewidth=0.9,
                **look,
            )
        shots = sorted(set(cells["shots"]) - {0})
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(shots, [str(each) for each in shots])
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("labelled images per class")
        axes.set_ylabel(f"{quantity} (%)")
        lowest, highest = axes.get_ylim()
        axes.set_ylim(max(lowest, 0), min(highest, 101))  # intervals of few seeds go beyond
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2, handlelength=2.2)
        return _svg(figure)


def average_ranks(
    ranks: Mapping[str, float],
    groups: Sequence[Sequence[str]],
    critical_difference: float | None = None,
) -> bytes:
    """Draw methods on an axis of average ranks, in the style of Demšar (JMLR 7, 2006), figure 1.

    Args:
        ranks: the average rank of two methods or more, the lowest first.
        groups: methods that are joined by a bar, each group neighbours by rank.
        critical_difference: Nemenyi's; its length stands above the axis if that is as long.
    """
    names = [short(shown(label), 18) for label in ranks]
    if critical_difference is not None and critical_difference > len(names) - 1:
        critical_difference = None
    ruler = 0 if critical_difference is None else 0.35  # inches above the axis
    left = -(-len(names) // 2)  # so many stand on the left
    top = 0.35 + BAR * len(groups)  # where the names begin, in inches below the axis
    height = top + LINE * left
    # The room of the names beside the axis, as a part of the width.
    beside = [
        0.04 + 0.015 * (6 + max(map(len, side or [""]))) for side in (names[:left], names[left:])
    ]
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        whole = height + 0.45 + ruler
        figure = Figure(figsize=(WIDTH, whole))
        place = (beside[0], 0.02, 1 - sum(beside), 0.98 - (0.4 + ruler) / whole)
        axes = figure.add_axes(place, frameon=False)
        axes.set(xlim=(1, len(names)), ylim=(height, 0), yticks=[])
        axes.xaxis.tick_top()
        axes.set_xticks(range(1, len(names) + 1, 1 + len(names) // 6))
        axes.axhline(0, color=INK, linewidth=1.4, clip_on=False)
        across = axes.get_yaxis_transform()  # x from 0 to 1 over the width of the axis
        for number, (name, rank) in enumerate(zip(names, ranks.values(), strict=True)):
            on_left = number < left
            y = top + LINE * (number if on_left else len(names) - 1 - number)
            x, edge = (rank - 1) / (len(names) - 1), 0 if on_left else 1
            axes.plot(
                [x, x, edge],
                [0, y, y],
                color=INK,
                linewidth=0.8,
                transform=across,
                clip_on=False,
            )
            axes.annotate(
                f"{name} {rank:.2f}" if on_left else f"{rank:.2f} {name}",
                (edge, y),
                (-4 if on_left else 4, 0),
                xycoords=across,
                textcoords="offset points",
                ha="right" if on_left else "left",
                va="center",
                annotation_clip=False,
            )
        if critical_difference is not None:
            end, y = 1 + critical_difference, -0.05 - ruler
            axes.plot([1, 1, end, end], [y + 0.06, y, y, y + 0.06], color=INK, clip_on=False)
            axes.annotate(
                f"CD = {critical_difference:.2f}",
                ((1 + end) / 2, y),
                (0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                annotation_clip=False,
            )
        for level, group in enumerate(groups):
            y = 0.16 + BAR * level
            ends = [ranks[group[0]] - 0.02, ranks[group[-1]] + 0.02]
            axes.plot(ends, [y, y], color=COLOURS[0], linewidth=4, clip_on=False)
        return _svg(figure)


def class_accuracy(outcome: Outcome) -> bytes:
    """Draw the accuracy on each class's images, the lowest first."""
    accuracy = outcome.class_accuracy()
    order = [row for row in np.argsort(accuracy, kind="stable") if not np.isnan(accuracy[row])]
    names = [short(outcome.class_names[row]) for row in order]
    values = accuracy[order]
    left_out = len(order) - BARS
    if left_out > 0:
        half = BARS // 2
        names = [*names[:half], f"({left_out} classes between)", *names[-half:]]
        values = np.concatenate([values[:half], [0], values[-half:]])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + 0.19 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(names)), values, color=COLOURS[0], height=0.72)
        for row, value in enumerate(values):
            if not names[row].startswith("("):
                axes.text(value + 1, row, f"{value:.0f}", va="center", fontsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 108), xticks=range(0, 101, 20))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("accuracy on the class's test images (%)")
        return _svg(figure)


def confusion(outcome: Outcome) -> bytes:
    """Draw the confusion matrix, each row in per cent of its class's images."""
    counts = outcome.confusion()
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 0.84 * WIDTH), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        if classes <= NAMED:
            names = [short(name) for name in outcome.class_names]
            longest = max(map(len, names))
            axes.set_xticks(range(classes), names, rotation=90 if longest > 2 else 0)
            axes.set_yticks(range(classes), names)
            axes.tick_params(length=0, labelsize=9 if classes <= COUNTED else 7.5)
        else:
            axes.set(xticks=[], yticks=[])
        if classes <= COUNTED:
            for (row, column), value in np.ndenumerate(share):
                if value >= 0.5:
                    colour = IN_CELLS[int(value > 55)]
                    place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
                    axes.text(column, row, f"{value:.0f}", color=colour, **place)
        axes.set(xlabel="predicted class", ylabel="true class")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, label="% of the true class")
        bar.outline.set_visible(False)
        return _svg(figure)


def reliability(outcome: Outcome, error: float) -> bytes:
    """Draw accuracy against confidence, and how many images each bin has.

    Args:
        outcome: the answers of a run.
        error: its expected calibration error, 0 to 1.
    """
    bins = outcome.reliability()
    left = np.arange(CALIBRATION_BINS) / CALIBRATION_BINS
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.9))
        place = {"left": 0.13, "right": 0.98, "bottom": 0.12, "top": 0.93, "hspace": 0.12}
        upper, lower = figure.subplots(2, height_ratios=[3, 1], sharex=True, gridspec_kw=place)
        bars: dict[str, Any] = {
            "width": 1 / CALIBRATION_BINS,
            "align": "edge",
            "edgecolor": GROUND,
        }
        upper.bar(left, bins.accuracy, color=COLOURS[0], **bars)
        upper.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        upper.set_title(f"expected calibration error {error:.3f}", loc="left", fontsize=9)
        lower.bar(left, bins.images, color=PALE, **bars)
        lower.set(xlabel="confidence", ylabel="images")
        return _svg(figure)


def search(outcome: Outcome, chosen: Sequence[float], on: str) -> bytes:
    """Draw the accuracy over the grid of two settings, with the chosen pair.

    Args:
        outcome: the answers of a run; its `search` is not None.
        chosen: the values that the run took, outer setting first.
        on: what the settings were chosen on.
    """
    assert outcome.search is not None
    (outer, rows), (inner, columns) = outcome.search_axes.items()
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.25))
        place = {"left": 0.13, "right": 0.98, "bottom": 0.13, "top": 0.9}
        axes = figure.subplots(gridspec_kw=place)
        mesh = axes.pcolormesh(
            columns, rows, outcome.search, cmap="viridis", shading="nearest", rasterized=True
        )
        axes.plot(
            chosen[1],
            chosen[0],
            linestyle="",
            marker="o",
            markersize=8,
            markerfacecolor="white",
            markeredgecolor=INK,
            label=f"chosen: {_greek(inner)} = {chosen[1]:.3g}, {_greek(outer)} = {chosen[0]:.3g}",
            clip_on=False,
        )
        axes.set(xlabel=_greek(inner), ylabel=_greek(outer))
        figure.legend(loc="upper left", borderaxespad=0.2)
        bar = figure.colorbar(mesh, ax=axes, pad=0.03, label=f"accuracy on {on} (%)")
        bar.outline.set_visible(False)
        return _svg(figure)


def _greek(setting: str) -> str:
    letters = {"alpha": "α", "beta": "β"}
    return next((sign + setting[len(n) :] for n, sign in letters.items() if n in setting), setting)


def short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _svg(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": CREATOR})
    return file.getvalue().replace(b"</style>", f"{_dark()}</style>".encode(), 1)


def _dark() -> str:
    """Write the colours of a dark page, for a browser that shows the figure in one."""
    rules = [
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    ]
    return f"@media screen and (prefers-color-scheme: dark){{{''.join(rules)}}}"
