"""The embedded dataset `digits`: real handwriting, offline.

scikit-learn ships 1,797 images of 8 × 8 pixels, the test part of the UCI set "Optical Recognition
of Handwritten Digits" (Alpaydin and Kaynak, 1998).
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from src.data.images import ImageArrays, Item

_SEED = 0
"""Of the split, which is fixed: results on `digits` are comparable between users."""


def read() -> ImageArrays:
    """Read the digits: uint8 `[1797, 8, 8]`, white on black, classes "0" to "9".

    The split is stratified, 40 / 20 / 40 per cent: 718 train, 359 val and 720 test images, each
    in scikit-learn's order.
    """
    digits = load_digits()
    labels = digits.target
    train, rest = train_test_split(
        np.arange(len(labels)), train_size=0.4, stratify=labels, random_state=_SEED
    )
    val, test = train_test_split(rest, train_size=1 / 3, stratify=labels[rest], random_state=_SEED)
    return ImageArrays(
        pixels=np.round(digits.images * (255 / 16)).astype(np.uint8),
        class_names=[str(name) for name in digits.target_names],
        splits={
            name: [Item(str(row), int(labels[row])) for row in sorted(rows)]
            for name, rows in {"train": train, "val": val, "test": test}.items()
        },
    )
