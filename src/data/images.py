"""The two kinds of image dataset: files in a folder, and arrays in memory.

A reader (`coop.py`, `digits.py`, ...) builds one of them; feature extraction reads both through
the `ImageDataset` protocol and knows nothing else about a dataset.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.errors import UserError


class Item(NamedTuple):
    """One labelled image: its key (a path below the image folder, or a row) and its class."""

    key: str
    label: int


Splits = Mapping[str, Sequence[Item]]
"""`train`, `val` and `test`, in the order that the dataset's authors gave the items."""


class ImageDataset(Protocol):
    """Named classes, labelled items by split, and a way to open one.

    `class_names[label]` is the name of a class as it goes into a prompt template.
    """

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def splits(self) -> Splits: ...

    def load(self, item: Item) -> Image.Image:
        """Decode one item to an RGB image."""

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash whatever decides what `items` look like, without decoding them."""


@dataclass(frozen=True)
class ImageFiles:
    """Images in files below `root`, keyed by their relative path."""

    root: Path
    class_names: Sequence[str]
    splits: Splits

    def load(self, item: Item) -> Image.Image:
        """Decode one file.

        Raises:
            UserError: the file is missing or cannot be decoded to the end.
        """
        path = self.root / item.key
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            raise missing_image(path) from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"cannot decode the image {path}: {error}. Replace it by an intact copy."
            ) from error

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash the path, size and label of every item.

        A file replaced by another of exactly the same length goes unnoticed: reading every byte
        on every run would cost more than the features save.

        Raises:
            UserError: a file is missing.
        """
        digest = hashlib.sha256()
        for key, label in items:
            try:
                size = (self.root / key).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                raise missing_image(self.root / key) from None
            digest.update(f"{key}\0{size}\0{label}\n".encode())
        return digest.hexdigest()


def missing_image(path: Path) -> UserError:
    return UserError(
        f"the image {path} is missing. Put it there, or run `python -m src.prepare dataset=...` "
        "to see what the dataset lacks."
    )


@dataclass(frozen=True)
class ImageArrays:
    """Images in memory, keyed by their row in `pixels`: uint8 `[N, H, W]`, 0 to 255."""

    pixels: NDArray[np.uint8]
    class_names: Sequence[str]
    splits: Splits

    def load(self, item: Item) -> Image.Image:
        """Turn one array into an RGB image."""
        return Image.fromarray(self.pixels[int(item.key)]).convert("RGB")

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash the pixels and label of every item."""
        digest = hashlib.sha256()
        for key, label in items:
            digest.update(self.pixels[int(key)].tobytes())
            digest.update(f"\0{label}\n".encode())
        return digest.hexdigest()
