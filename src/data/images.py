"""The two kinds of image dataset: files in a folder, and arrays in memory.

A reader (`coop.py`, `digits.py`, ...) builds one of them; feature extraction reads both through
the `ImageDataset` protocol and knows nothing else about a dataset.
"""

import hashlib
import io
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from src.errors import UserError


class Item(NamedTuple):
    """One labelled image: its key (a path below the image folder, or a row) and its class."""

    key: str
    label: int


SPLITS = ("train", "val", "test")
Splits = Mapping[str, Sequence[Item]]
"""The items of each of `SPLITS`, in the order that the dataset's authors gave them."""


FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read, whatever a file is called. Its other readers may do
more than decode: that of PostScript starts another program."""


class DamagedImageError(UserError):
    """What is there can be read, but is no image that can be decoded.

    Attributes:
        where: what the image is called in messages; of a file, its path.
        reason: what is wrong with it.
    """

    def __init__(self, where: str | Path, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return (
            f"cannot decode the image {self.where}: {self.reason}. Replace it by an intact copy, "
            "or leave such images out by on_bad_image=skip."
        )


class MissingImageError(UserError):
    """A file that the dataset lists is not there."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"the image {self.path} is missing. Put it there, or run `python -m src.prepare "
            "dataset=...` to see what the dataset lacks."
        )


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
        """Hash everything that decides what `items` look like, without decoding them."""


@dataclass(frozen=True)
class ImageFiles:
    """Images in files below `root`, keyed by their relative path.

    Attributes:
        class_ids: what identifies each class across datasets, where names may repeat, in the order
            of `class_names`; None: the names.
        notes: what the record of a run must say of it, such as how splits were drawn.
    """

    root: Path
    class_names: Sequence[str]
    splits: Splits
    class_ids: Sequence[str] | None = None
    notes: Sequence[str] = ()

    def load(self, item: Item) -> Image.Image:
        """Decode one file.

        Raises:
            DamagedImageError: the file cannot be decoded to its end.
            UserError: the file is missing, or the system does not let us read it.
        """
        path = self.root / item.key
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DamagedImageError(path, "it is no file")
            with path.open("rb") as file:
                return decode(file, path)
        except FileNotFoundError:
            raise MissingImageError(path) from None
        except OSError as error:
            raise UserError(f"cannot read the image {path}: {error.strerror}.") from error

    def where(self, item: Item) -> str:
        """Give the path of an item."""
        return str(self.root / item.key)

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash the path, size, modification time and label of every item.

        Uncompressed images of one resolution have one size, whatever they show, and reading every
        byte on every run would cost more than the features save. So a copy without its files'
        times is another dataset, and its features are extracted again.

        Raises:
            UserError: a file is missing.
        """
        digest = hashlib.sha256()
        for key, label in items:
            try:
                file = (self.root / key).stat()
            except (FileNotFoundError, NotADirectoryError):
                raise MissingImageError(self.root / key) from None
            digest.update(f"{key}\0{file.st_size}\0{file.st_mtime_ns}\0{label}\n".encode())
        return digest.hexdigest()


def decode(file: BinaryIO, where: str | Path) -> Image.Image:
    """Decode a file that was opened to an RGB image.

    Args:
        file: the content.
        where: what it is called in messages.

    Raises:
        DamagedImageError: it cannot be decoded to its end.
        OSError: the system fails to read it.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            return as_rgb(image)
    except UnidentifiedImageError as error:
        reason = "not an image" if file.seek(0, io.SEEK_END) else "the file is empty"
        raise DamagedImageError(where, reason) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # Errors that Pillow raises itself have no errno.
        raise DamagedImageError(where, str(error)) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8 bits per channel. Pillow's own conversion would cut 16-bit greys off at 255.

    Raises:
        ValueError: the values have no range that is known to be black to white.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its values of 32 bits have no fixed range; convert it to 8 or 16 bits")
    return image.convert("RGB")


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
