"""Pictures and point clouds that a caller holds: paths, images and arrays."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.data.images import ImageFiles, Item, Splits, as_rgb
from src.data.point_clouds import DamagedCloudError, PointClouds
from src.errors import UserError

Picture = str | Path | Image.Image | NDArray[np.uint8]
"""A path, an image of Pillow's, or an array `[h, w]` or `[h, w, 3]`, 0 to 255."""
Cloud = str | Path | NDArray[np.floating]
"""The path of an `.npy` file, or its array: points `[p, 3]`, of any size and anywhere."""
FILES = ImageFiles(Path(), (), {})


@dataclass(frozen=True)
class GivenImages:
    """An image dataset of pictures, keyed by their position in `images`."""

    images: Sequence[Picture]
    class_names: Sequence[str]
    splits: Splits

    def load(self, item: Item) -> Image.Image:
        """Decode or convert one picture to RGB.

        Raises:
            UserError: the file is missing or cannot be decoded, or the array is of another type.
        """
        given = self.images[int(item.key)]
        if isinstance(given, Image.Image):
            return as_rgb(given)
        if isinstance(given, str | Path):
            return FILES.load(Item(str(given), item.label))
        if not isinstance(given, np.ndarray) or given.dtype != np.uint8 or not _is_image(given):
            shape = f"{given.dtype} {list(given.shape)}" if isinstance(given, np.ndarray) else given
            raise UserError(
                f"image {item.key} is {shape}: give a path, an image of Pillow's, or an array of "
                "uint8, [h, w] or [h, w, 3]."
            )
        return Image.fromarray(given).convert("RGB")

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash the label of every item, and its pixels or, of a file, what `ImageFiles` does."""
        digest = hashlib.sha256()
        for item in items:
            given = self.images[int(item.key)]
            if isinstance(given, str | Path):
                digest.update(FILES.fingerprint([Item(str(given), item.label)]).encode())
            else:
                image = self.load(item)
                digest.update(f"{image.size}\0{item.label}\0".encode() + image.tobytes())
        return digest.hexdigest()


def _is_image(array: NDArray[np.uint8]) -> bool:
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)


@dataclass(frozen=True)
class GivenClouds(PointClouds):
    """A dataset of point clouds, keyed by their position in `clouds`.

    A cloud with fewer than `points` points has its first ones again, which weighs these more in
    their pixels.
    """

    clouds: Sequence[Cloud]

    def load(self, item: Item) -> NDArray[np.float32]:
        points = super().load(item)
        return np.resize(points, (self.points, 3))

    def _points(self, item: Item) -> NDArray[np.float32]:
        given = self.clouds[int(item.key)]
        try:
            points = np.load(given, allow_pickle=False) if isinstance(given, str | Path) else given
        except FileNotFoundError:
            raise UserError(f"{given} is missing: correct the path.") from None
        except (EOFError, MemoryError, OSError, SyntaxError, TokenError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DamagedCloudError(self._where(item), f"cannot be read: {reason}") from error
        held = isinstance(points, np.ndarray) and points.ndim == 2 and points.shape[1] == 3
        if not held or points.dtype.kind not in "fiu":
            raise DamagedCloudError(self._where(item), "does not hold points [p, 3]")
        return points.astype(np.float32)

    def _where(self, item: Item) -> str:
        given = self.clouds[int(item.key)]
        return str(given) if isinstance(given, str | Path) else f"point cloud {item.key}"

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash the points and label of every item."""
        digest = hashlib.sha256()
        for item in items:
            digest.update(self._points(item).tobytes() + f"\0{item.label}\n".encode())
        return digest.hexdigest()
