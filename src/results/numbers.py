"""The numbers behind each figure of a report, as a table for those who cannot see it."""

import csv
from io import BytesIO, StringIO

import numpy as np
import pandas as pd
from PIL import Image

from src.results.attention import NUMBERS
from src.results.comparison_tables import Text
from src.results.formats import text
from src.results.metrics import CALIBRATION_BINS
from src.results.names import shown
from src.results.outcome import Outcome
from src.results.plots import COUNTED

MOST = 30
"""How many mistakes, and how many settings, are listed at most."""


def accuracy_by_shots(cells: pd.DataFrame) -> Text:
    """List what `src.results.plots.accuracy_by_shots` draws: a row per method."""
    shots = sorted(cells["shots"].unique())
    found = dict(zip(zip(cells["label"], cells["shots"], strict=True), cells["cell"], strict=True))
    rows = [
        {"method": shown(label)} | {str(one): text(found.get((label, one))) for one in shots}
        for label in cells["label"].unique()
    ]
    places = [{"method": label} for label in cells["label"].unique()]
    return Text("Accuracy in % by labelled images per class", rows, places)


def class_accuracy(outcome: Outcome) -> Text:
    """List the classes that have images, the lowest accuracy first."""
    accuracy, images = outcome.class_accuracy(), outcome.confusion().sum(axis=1)
    order = [row for row in np.argsort(accuracy, kind="stable") if images[row]]
    rows = [
        {
            "class": outcome.class_names[row],
            "accuracy in %": f"{accuracy[row]:.2f}",
            "images": str(images[row]),
        }
        for row in order
    ]
    return Text("Accuracy by class", rows)


def confusion(outcome: Outcome) -> Text:
    """Count images by true and predicted class; of many classes, only the most frequent mistakes.

    A matrix of hundreds of classes is nothing that can be read aloud.
    """
    counts, names = outcome.confusion(), outcome.class_names
    if len(names) <= COUNTED:
        headings = ["true class", *(f"as {name}" for name in names)]
        rows = [
            dict(zip(headings, [name, *map(str, row)], strict=True))
            for name, row in zip(names, counts, strict=True)
        ]
        return Text("Images by true class (rows) and predicted class (columns)", rows)
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST]
    rows = [
        {"true class": names[true], "predicted class": names[taken], "images": str(wrong[place])}
        for place in zip(*np.unravel_index(order, wrong.shape), strict=True)
        for true, taken in [place]
        if wrong[place]
    ]
    return Text(f"The most frequent mistakes, {MOST} at most", rows)


def reliability(outcome: Outcome) -> Text:
    """List the bins of confidence that have images."""
    bins = outcome.reliability()
    rows = [
        {
            "confidence": f"{row / CALIBRATION_BINS:.3f} to {(row + 1) / CALIBRATION_BINS:.3f}",
            "mean confidence": f"{bins.confidence[row]:.3f}",
            "accuracy": f"{bins.accuracy[row]:.3f}",
            "images": str(bins.images[row]),
        }
        for row in range(CALIBRATION_BINS)
        if bins.images[row]
    ]
    return Text("Accuracy by confidence, both from 0 to 1", rows)


def search(outcome: Outcome) -> Text:
    """List the best points of a search; its `search` is not None."""
    assert outcome.search is not None
    (outer, rows), (inner, columns) = outcome.search_axes.items()
    order = np.argsort(-outcome.search, axis=None, kind="stable")[:MOST]
    points = zip(*np.unravel_index(order, outcome.search.shape), strict=True)
    found = [
        {
            outer: f"{rows[row]:.4g}",
            inner: f"{columns[column]:.4g}",
            "accuracy in %": f"{outcome.search[row, column]:.2f}",
        }
        for row, column in points
    ]
    return Text(f"The best of {outcome.search.size:,} points of the grid", found)


def attention(picture: bytes) -> Text | None:
    """Read the numbers that `src.results.attention.png` wrote into a picture.

    Returns:
        A row for each row of positions; None if there are none, as in pictures of earlier versions.
    """
    try:
        with Image.open(BytesIO(picture)) as png:
            file = StringIO(str(png.info.get(NUMBERS, "")), newline="")
        rows = list(csv.DictReader(file, strict=True))
    except (OSError, SyntaxError, ValueError, csv.Error):
        return None  # the page shows what it was given; a picture is nothing that is computed with
    if not rows or any(None in row or None in row.values() for row in rows):
        return None
    return Text("Attention by row and column of the image, 1 where it is equal everywhere", rows)
