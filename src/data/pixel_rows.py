"""Images that lie as plain pixels in large files, read one by one when they are asked for."""

import errno
import hashlib
import os
import threading
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.data import rows
from src.data.images import DamagedImageError, Item, MissingImageError
from src.errors import UserError

if TYPE_CHECKING:
    import h5py

_CHUNK_CACHE_BYTES = 1 << 25


class Pixels(Protocol):
    """The images of one or more files, numbered by rows."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""

    def read(self, row: int) -> NDArray[np.uint8]:
        """Read one image, `[H, W]` grey or `[H, W, 3]` RGB.

        Raises:
            OSError: the file cannot be read.
            ValueError: what is there is no image.
        """

    def where(self, row: int) -> str:
        """Name the file of a row and its place there."""


@dataclass(frozen=True)
class PixelRows:
    """A dataset of `Rows`, each of which is an image of one of `sources`.

    Attributes:
        root: the dataset's folder.
        sources: by the first part of an item's key, the images.
        notes: how splits were drawn that the authors do not publish.
    """

    root: Path
    class_names: Sequence[str]
    splits: Mapping[str, rows.Rows]
    sources: Mapping[str, Pixels]
    notes: Sequence[str] = ()

    def load(self, item: Item) -> Image.Image:
        """Read one image as RGB.

        Raises:
            DamagedImageError: the file ends before it, or cannot be read there.
            UserError: the file is missing, or the system does not let us read it.
        """
        source, row = rows.row_of(item)
        try:
            return Image.fromarray(self.sources[source].read(row)).convert("RGB")
        except FileNotFoundError as error:
            missing = error.filename or self.sources[source].paths[0]  # HDF5 does not say
            raise MissingImageError(Path(missing)) from None
        except ValueError as error:
            raise DamagedImageError(self.where(item), str(error)) from error
        except OSError as error:
            if error.errno is None:  # HDF5's own
                raise DamagedImageError(self.where(item), str(error)) from error
            raise UserError(f"cannot read {self.where(item)}: {error.strerror}.") from error

    def where(self, item: Item) -> str:
        """Give the path of an item's file, a colon and its place there."""
        source, row = rows.row_of(item)
        return self.sources[source].where(row)

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash which rows `items` are, their labels, and their files' sizes and times.

        As with images in files of their own, a copy without the times is another dataset.
        """
        digest = hashlib.sha256(rows.fingerprint(items))
        used = (
            {items.source} if isinstance(items, rows.Rows) else {rows.row_of(i)[0] for i in items}
        )
        for path in (path for source in sorted(used) for path in self.sources[source].paths):
            try:
                file = path.stat()
            except FileNotFoundError:
                raise MissingImageError(path) from None
            name = path.relative_to(self.root).as_posix()
            digest.update(f"{name}\0{file.st_size}\0{file.st_mtime_ns}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Records:
    """Images of one size, each in a record of equally many bytes; one file follows the other.

    Attributes:
        counts: the records of each file.
        header: bytes before the first record of a file.
        size: bytes of a record.
        skipped: bytes of a record before its pixels.
        shape: of the pixels as they lie there.
        axes: their order as an image, `[H, W]` or `[H, W, 3]`.
    """

    paths: Sequence[Path]
    counts: Sequence[int]
    header: int
    size: int
    skipped: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def read(self, row: int) -> NDArray[np.uint8]:
        path, place = self._place(row)
        start = self.header + place * self.size + self.skipped
        pixels = np.fromfile(path, np.uint8, count=self.size - self.skipped, offset=start)
        if len(pixels) != self.size - self.skipped:
            raise ValueError("the file ends before it")
        return np.ascontiguousarray(pixels.reshape(self.shape).transpose(self.axes))

    def where(self, row: int) -> str:
        path, place = self._place(row)
        return f"{path}:{place}"

    def _place(self, row: int) -> tuple[Path, int]:
        ends = list(accumulate(self.counts))
        file = bisect_right(ends, row)
        return self.paths[file], row - (ends[file] - self.counts[file])


@dataclass(frozen=True)
class _InOneFile:
    """What pixels that all lie in one file have in common."""

    path: Path

    @property
    def paths(self) -> Sequence[Path]:
        return (self.path,)

    def where(self, row: int) -> str:
        return f"{self.path}:{row}"


@dataclass(frozen=True)
class HDF5Pixels(_InOneFile):
    """Rows of the dataset `key` `[N, H, W, 3]` of an HDF5 file."""

    key: str

    def read(self, row: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = _opened(self.path, os.getpid())[self.key][row]
        return pixels


@dataclass(frozen=True)
class MatlabPixels(_InOneFile):
    """The array `key` `[H, W, 3, N]` of a MATLAB file, which is compressed and read as a whole."""

    key: str

    def read(self, row: int) -> NDArray[np.uint8]:
        with _ONE_AT_A_TIME:
            whole = _decompressed(self.path, self.key)
        return np.ascontiguousarray(whole[..., row])


@dataclass(frozen=True)
class TextPixels(_InOneFile):
    """Square grey images as decimal numbers in the lines of a text file.

    Attributes:
        lines: of each image, from 1, int64 `[N]`.
        starts: where in the file its numbers begin, in bytes, int64 `[N]`.
        side: of the square.
    """

    lines: NDArray[np.int64]
    starts: NDArray[np.int64]
    side: int

    def read(self, row: int) -> NDArray[np.uint8]:
        with self.path.open("rb") as file:
            file.seek(int(self.starts[row]))
            numbers = file.readline().partition(b",")[0].strip(b'" \r\n').split()
        if len(numbers) != self.side**2:
            raise ValueError(f"it has {len(numbers):,} pixels, not {self.side**2:,}")
        # Beyond 0 to 255, numpy raises OverflowError or wraps around, according to its version.
        values = [int(number) for number in numbers]
        if not 0 <= min(values) <= max(values) <= 255:
            raise ValueError("a pixel is not from 0 to 255")
        return np.array(values, np.uint8).reshape(self.side, self.side)

    def where(self, row: int) -> str:
        return f"{self.path}:{self.lines[row]}"


_ONE_AT_A_TIME = threading.Lock()


@lru_cache(maxsize=2)
def _decompressed(path: Path, key: str) -> NDArray[np.uint8]:
    return read_matlab(path, key)


def matlab_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shape of each array of a MATLAB file, decompressing none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no MATLAB file of version 5.
    """
    from scipy.io import whosmat

    return {name: shape for name, shape, _ in _of_matlab(whosmat, path)}


def read_matlab(path: Path, key: str) -> NDArray[Any]:
    """Read one array of a MATLAB file; the others are not decompressed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no intact MATLAB file of version 5, or has no such array.
    """
    from scipy.io import loadmat

    found: dict[str, NDArray[Any]] = _of_matlab(partial(loadmat, variable_names=[key]), path)
    if key not in found:
        raise ValueError(f"it has no array {key}")
    return found[key]


def _of_matlab(reader: Callable[[str], Any], path: Path) -> Any:
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        return reader(str(path))
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError, zlib.error) as error:
        raise ValueError(f"it is no intact MATLAB file: {error}") from error


@lru_cache(maxsize=8)
def _opened(path: Path, process: int) -> "h5py.File":
    """Open a file once in each process, because a handle does not survive a fork.

    The cache holds the chunks that a band of rows shares, lest each row decompress them again.
    """
    import h5py

    return h5py.File(path, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)
