"""The files that datasets are published in, read with checks: each message names what is wrong.

Records of equally many bytes, IDX, HDF5, labels, and folders with a folder for each class.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.data.text_files import listing
from src.errors import UserError

FETCH = "Run `python -m src.prepare dataset=...` to fetch it."
REMEDY = f"Move it away. {FETCH}"


def missing(path: Path) -> UserError:
    """Say that a file is missing, and how to get it."""
    return UserError(f"the file {path} is missing. {FETCH}")


def count_records(path: Path, size: int) -> int:
    """Count the records of a file.

    Raises:
        UserError: it is missing or empty, or its last record is not whole.
    """
    if not path.is_file():
        raise missing(path)
    count, rest = divmod(path.stat().st_size, size)
    if rest or not count:
        raise UserError(
            f"the file {path} is damaged: its {path.stat().st_size:,} bytes are not one or more "
            f"records of {size:,} bytes. {REMEDY}"
        )
    return count


def read_idx_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    """Read the header of a file of the IDX format that holds bytes.

    Raises:
        UserError: it is missing, of another type, or its length is not what it says.
    """
    if not path.is_file():
        raise missing(path)
    with path.open("rb") as file:
        header = file.read(4 + 4 * dimensions)
    if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) != 4 + 4 * dimensions:
        raise UserError(
            f"the file {path} is no IDX file of bytes in {dimensions} dimensions: it begins with "
            f"{header[:4].hex() or 'nothing'}. Unpack it if it is compressed, or fetch it again."
        )
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
    expected = len(header) + int(np.prod(shape, dtype=object))
    if path.stat().st_size != expected or 0 in shape:
        raise UserError(
            f"the file {path} is damaged: it has {path.stat().st_size:,} bytes and should have "
            f"{expected:,}. {REMEDY}"
        )
    return shape


def read_hdf5(path: Path, key: str, values: bool) -> tuple[tuple[int, ...], NDArray[Any]]:
    """Read the shape of an array of bytes in an HDF5 file and, if wanted, its values.

    Raises:
        UserError: the file is missing or damaged, or has no such array.
    """
    import h5py

    if not path.is_file():
        raise missing(path)
    try:
        with h5py.File(path, "r", locking=False) as content:
            found = content.get(key)
            if not isinstance(found, h5py.Dataset) or found.dtype != np.uint8:
                raise UserError(f"{path} has no array {key} of bytes. {REMEDY}")
            return found.shape, found[()] if values else np.zeros(0)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not an intact HDF5 file: {reason}. {REMEDY}") from None


def check_labels(
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    path: Path,
    first: int = 0,
    count: int | None = None,
) -> None:
    """Refuse labels that are no classes, or of which there are not `count`.

    Args:
        labels: from 0.
        class_names: the classes.
        path: the labels' file, for messages.
        first: the label of the first class in the file.
        count: how many images there are; None: as many.

    Raises:
        UserError: one is not from 0 to the last class, or images and labels differ in number.
    """
    if count is not None and count != len(labels):
        raise UserError(
            f"{path} has {len(labels):,} labels, and there are {count:,} images. {REMEDY}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{path}, row {row}: the label is {int(labels[row]) + first}, and the "
            f"{len(class_names)} classes are {first} to {len(class_names) - 1 + first}. {REMEDY}"
        )


def class_folders(top: Path, *endings: str) -> dict[str, list[str]]:
    """List the images in each folder of `top`; both sorted by name.

    Raises:
        UserError: the folder is missing, or one in it holds no image.
    """
    if not top.is_dir():
        raise UserError(f"the folder {top} is missing. {FETCH}")
    with os.scandir(top) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    found = {folder: _images(os.scandir(top / folder), endings) for folder in folders}
    if empty := [str(top / folder) for folder, files in found.items() if not files]:
        raise UserError(f"there is no image ({', '.join(endings)}) in {listing(empty)}. {REMEDY}")
    return found


def _images(entries: Iterable["os.DirEntry[str]"], endings: tuple[str, ...]) -> list[str]:
    return sorted(entry.name for entry in entries if entry.name.lower().endswith(endings))
