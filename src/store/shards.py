"""One file of an entry of the feature store: some rows of every tensor, and their checksum."""

import hashlib
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from src.files import replacing

FORMAT = 1
"""Version of the format of shards and manifests; an entry of another version is made again."""


class DamageError(Exception):
    """A file of an entry is missing, unreadable or altered; the message names it."""


def shard_name(index: int) -> str:
    """Name the file of a shard."""
    return f"shard-{index:05d}.safetensors"


def shard_count(rows: int, rows_per_shard: int) -> int:
    """Count the shards of an entry."""
    return math.ceil(rows / rows_per_shard)


def shard_rows(index: int, rows: int, rows_per_shard: int) -> range:
    """Give the rows of an entry that a shard holds: `rows_per_shard`, fewer in the last."""
    return range(index * rows_per_shard, min(rows, (index + 1) * rows_per_shard))


def write_shard(path: Path, rows: range, tensors: Mapping[str, Shaped[Tensor, "rows ..."]]) -> None:
    """Write one shard, atomically, in the dtypes given: each tensor's row for each of `rows`.

    It may not be on the disk yet: should the system crash, its checksum tells.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path, flushed=False) as temporary:
        # not save_file(): it reports a full disk as a SafetensorError
        temporary.write_bytes(save(content, {"sha256": _checksum(rows, content)}))


def check_shard(path: Path, rows: range, expected: str | None = None) -> dict[str, dict[str, Any]]:
    """Compare the checksum of a shard's content with its own and with the `expected` one, if any.

    Returns:
        What `describe` says of its tensors, by name.

    Raises:
        DamageError: they differ, or the shard is missing or unreadable.
    """
    check_is_file(path)
    try:
        with safe_open(path, framework="pt") as shard:
            recorded = (shard.metadata() or {}).get("sha256")
            tensors = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DamageError(f"{path} is unreadable ({error})") from error
    if not _checksum(rows, tensors) == recorded == (expected or recorded):
        raise DamageError(f"{path} is damaged: its checksum differs")
    return {name: describe(tensor) for name, tensor in tensors.items()}


def check_is_file(path: Path) -> os.stat_result:
    """Check that a path leads to a file: a pipe of that name would never end.

    Raises:
        DamageError: it is missing, or something else.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DamageError(f"{path} is missing") from None
    except OSError as error:
        raise DamageError(f"{path} is unreadable ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode):
        raise DamageError(f"{path} is no file")
    return found


def _checksum(rows: range, tensors: Mapping[str, Tensor]) -> str:
    """Compute SHA-256 over the row numbers and the tensors' names, dtypes, shapes and values.

    It is the shard's only metadata: safetensors writes several in random order.
    """
    digest = hashlib.sha256(f"{FORMAT} {rows.start}:{rows.stop}\n".encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe(tensor: Shaped[Tensor, "rows ..."]) -> dict[str, Any]:
    """Give the `shape` of a row and the `dtype`, as a manifest has them."""
    return {"shape": list(tensor.shape[1:]), "dtype": str(tensor.dtype).removeprefix("torch.")}
