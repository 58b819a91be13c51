"""Datasets of point clouds: what they have in common, and those in HDF5 files.

A reader (`modelnet.py`, `scanobjectnn.py`, `solids.py`) builds a `PointClouds`, the 3D counterpart
of an `ImageDataset`. y points upwards, and the front is seen along z, as in ModelNet's HDF5 files.
"""

import hashlib
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from src.data.images import Item, Splits
from src.errors import UserError, require_integer

if TYPE_CHECKING:
    import h5py

VIEWS = (6, 10)
"""How many depth maps PointCLIP (Zhang et al., CVPR 2022) makes of a cloud."""

_CHUNK_CACHE_BYTES = 1 << 25


class DamagedCloudError(UserError):
    """A point cloud cannot be read, or cannot be drawn."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return (
            f"{self.where} {self.reason}. Replace it by an intact copy; on_bad_image=skip leaves "
            "out images alone."
        )


@dataclass(frozen=True)
class PointClouds(ABC):
    """Named classes and labelled point clouds by split, each with the same number of points.

    Attributes:
        class_names: the name of each label, as it goes into a prompt template.
        splits: `train`, `val` and `test`.
        views: how many depth maps of each cloud, 6 or 10.
        points: how many points of each cloud are used: the first ones.

    Raises:
        UserError: `views` is another number.
    """

    class_names: Sequence[str]
    splits: Splits
    views: int
    points: int

    def __post_init__(self) -> None:
        if type(self.views) is not int or self.views not in VIEWS:
            raise UserError(
                f"dataset.views={self.views}: give 6, PointCLIP's views for zero-shot use, or 10, "
                "its views for few-shot use."
            )

    def load(self, item: Item) -> NDArray[np.float32]:
        """Give the first `points` `[P, 3]` of one cloud.

        The mean of all its points is at 0, and the farthest at distance 1.

        Raises:
            DamagedCloudError: the cloud cannot be read, has no points or no extent, or a coordinate
                is not finite.
        """
        points = self._points(item).astype(np.float64)
        if not np.isfinite(points).all():
            raise DamagedCloudError(
                self._where(item), "has coordinates that are not finite numbers"
            )
        centred = points - points.mean(axis=0) if len(points) else points
        radius = np.linalg.norm(centred, axis=1).max(initial=0)
        if radius == 0:
            raise DamagedCloudError(self._where(item), "is empty: it has no two different points")
        if not np.isfinite(radius):
            raise DamagedCloudError(self._where(item), "is too large for floating-point numbers")
        return (centred[: self.points] / radius).astype(np.float32)

    @abstractmethod
    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash everything that decides what `items` look like."""

    @abstractmethod
    def _points(self, item: Item) -> NDArray[np.float32]:
        """Read or make the points `[P, 3]` of one cloud; they need not be centred."""

    @abstractmethod
    def _where(self, item: Item) -> str:
        """Name one cloud in a message."""


@dataclass(frozen=True)
class HDF5Clouds(PointClouds):
    """Rows of the HDF5 files below `root`, read on demand and keyed `<file>:<row>`."""

    root: Path

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash the key and label of every item, and the size and modification time of its file.

        The size is not enough: in an uncompressed file, other points take the same space.
        """
        digest = hashlib.sha256()
        files: dict[str, str] = {}
        for key, label in items:
            file, _ = _file_and_row(key)
            if file not in files:
                status = (self.root / file).stat()
                files[file] = f"{status.st_size}\0{status.st_mtime_ns}"
            digest.update(f"{key}\0{files[file]}\0{label}\n".encode())
        return digest.hexdigest()

    def _points(self, item: Item) -> NDArray[np.float32]:
        file, row = _file_and_row(item.key)
        try:
            points: NDArray[np.float32] = _opened(self.root / file, os.getpid())["data"][row]
        except OSError as error:
            raise DamagedCloudError(self._where(item), f"cannot be read: {error}") from error
        return points

    def where(self, item: Item) -> str:
        """Give the path of an item's file, a colon and its row there."""
        return str(self.root / item.key)

    def _where(self, item: Item) -> str:
        file, row = _file_and_row(item.key)
        return f"the point cloud in row {row} of {self.root / file}"


def read_rows(
    root: Path, files: Mapping[str, Iterable[str]], class_names: Sequence[str], remedy: str
) -> tuple[dict[str, list[Item]], int]:
    """List the clouds of HDF5 files: `data` `[N, P, 3]`, floats, and `label` `[N]` or `[N, 1]`.

    Args:
        root: the folder that the files lie below.
        files: their paths below `root`, by split.
        class_names: the name of each label.
        remedy: how to get an intact copy of the files, a sentence for the user.

    Returns:
        The rows of each split's files, in their order, where labels are indices of `class_names`;
        and the number of points P.

    Raises:
        UserError: a file is missing, is no HDF5, or has other keys, shapes or labels.
    """
    import h5py

    items: dict[str, list[Item]] = {split: [] for split in files}
    first: tuple[str, int] | None = None
    for split, file in [(split, file) for split, some in files.items() for file in some]:
        path = root / file
        try:
            with h5py.File(path, "r", locking=False) as content:
                shape, labels = _checked(content, path, remedy)
        except FileNotFoundError:
            raise UserError(f"the file {path} is missing. {remedy}") from None
        except OSError as error:
            reason = str(error).splitlines()[0].partition("(file read failed")[0].rstrip(" (")
            raise UserError(f"{path} is not an intact HDF5 file: {reason}. {remedy}") from error
        first = first or (file, shape[1])
        if shape[1] != first[1]:
            raise UserError(
                f"{path} has clouds of {shape[1]:,} points, and {first[0]} of {first[1]:,}: all "
                f"must have equally many. {remedy}"
            )
        outside = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
        if outside.size:
            row = outside[0]
            raise UserError(
                f"{path} gives row {row} the label {labels[row]}, but the {len(class_names)} "
                f"classes are 0 to {len(class_names) - 1}. {remedy}"
            )
        items[split] += [Item(f"{file}:{row}", int(label)) for row, label in enumerate(labels)]
    return items, 0 if first is None else first[1]


def used(points: int, available: int) -> int:
    """Say how many points of each cloud are used: `points`, or all if there are fewer.

    Raises:
        UserError: `points` is no integer from 1.
    """
    require_integer("dataset.points", points, least=1)
    return min(points, available)


def hold_out(train: Sequence[Item], class_names: Sequence[str]) -> tuple[list[Item], list[Item]]:
    """Divide the clouds of a dataset without validation split: a fifth of each class becomes val.

    The draw depends only on the class's name and number of clouds, so a class that two datasets
    share is divided alike. A class of two clouds or more keeps one on either side.

    Returns:
        What remains of `train`, and `val`, both in the order of `train`.
    """
    val: set[Item] = set()
    for label, name in enumerate(class_names):
        of_class = [item for item in train if item.label == label]
        count = min(max(1, len(of_class) // 5), max(0, len(of_class) - 1))
        val.update(random.Random(name).sample(of_class, count))
    return [item for item in train if item not in val], [item for item in train if item in val]


@lru_cache(maxsize=16)
def _opened(path: Path, process: int) -> "h5py.File":
    """Open a file once in each process, because a handle does not survive a fork.

    The cache holds the chunks that a band of rows shares, lest each row decompress them again.
    """
    import h5py

    return h5py.File(path, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)


def _file_and_row(key: str) -> tuple[str, int]:
    file, _, row = key.rpartition(":")
    return file, int(row)


def _checked(
    content: "h5py.File", path: Path, remedy: str
) -> tuple[tuple[int, ...], NDArray[np.integer]]:
    """Give the shape of `data` and the labels `[N]`."""
    import h5py

    missing = [key for key in ("data", "label") if not isinstance(content.get(key), h5py.Dataset)]
    if missing:
        raise UserError(
            f"{path} lacks {' and '.join(missing)}: its keys are "
            f"{', '.join(content) or 'none'}. {remedy}"
        )
    shape: tuple[int, ...] = content["data"].shape
    labels = content["label"][()].reshape(-1)
    if len(shape) != 3 or shape[2] != 3 or content["data"].dtype.kind != "f":
        raise UserError(
            f"{path}: data must be floats [clouds, points, 3], not {content['data'].dtype} "
            f"{list(shape)}. {remedy}"
        )
    if labels.dtype.kind not in "iu" or len(labels) != shape[0]:
        raise UserError(
            f"{path}: label must be {shape[0]:,} integers, not {len(labels):,} {labels.dtype}. "
            f"{remedy}"
        )
    return shape, labels
