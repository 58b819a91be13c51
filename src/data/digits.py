"""The embedded dataset `digits`: real handwriting, offline.

scikit-learn ships 1,797 images of 8 × 8 pixels, the test part of the UCI set "Optical Recognition
of Handwritten Digits" (Alpaydin and Kaynak, 1998).
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from src.data.images import ImageArrays, Item

SPLIT = Path(__file__).with_name("digits_split.json")
BRIGHTEST = 16


def read() -> ImageArrays:
    """Read the digits: uint8 `[1797, 8, 8]`, white on black, classes "0" to "9".

    The split is stratified, 40 / 20 / 40 per cent: 718 train, 359 val and 720 test images, each
    in scikit-learn's order. It is kept in a file, so that results on `digits` are comparable
    between users, whatever becomes of scikit-learn's way to draw it.
    """
    rows = _rows()
    labels = rows[:, -1].tolist()
    return ImageArrays(
        pixels=np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / BRIGHTEST)).astype(np.uint8),
        class_names=[str(number) for number in range(10)],
        splits={
            name: [Item(str(row), labels[row]) for row in of_split]
            for name, of_split in json.loads(SPLIT.read_text()).items()
        },
    )


def _rows() -> UInt8[np.ndarray, "1797 65"]:
    """Read scikit-learn's file: 64 pixels and the label; importing its reader takes a second."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    path = Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz"
    return np.loadtxt(path, delimiter=",", dtype=np.uint8)
