"""A complete entry of the feature store: opening, reading and verifying it."""

import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import safe_open
from torch import Tensor

from src.files import write_json
from src.store.shards import (
    FORMAT,
    DamageError,
    check_is_file,
    check_shard,
    shard_count,
    shard_name,
    shard_rows,
)

MANIFEST = "manifest.json"
CHECKSUM = "sha256"
"""The manifest's own, over everything else in it."""
ALWAYS_CHECKED = 1 << 20
"""An entry of at most so many bytes is read whole and compared with its checksums at every opening:
that of a text above all, on which every figure of a dataset depends."""
CHECKED_BYTES = 1 << 25
"""Of a larger entry, about so many bytes are: one of its shards, drawn anew each time. That takes
some twenty milliseconds, where a run takes seconds."""


@dataclass(frozen=True)
class FeatureEntry:
    """A complete entry, read on demand.

    Attributes:
        path: the entry's folder.
        manifest: `key`, `rows`, `rows_per_shard`, `tensors` (name → `shape` of a row, `dtype`),
            `shards` (`file`, `size` in bytes, `mtime_ns`, `sha256`), `made_by` (versions),
            `created_at` (ISO 8601, UTC) and a `sha256` of all this.
    """

    path: Path
    manifest: Mapping[str, Any]

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self.manifest["tensors"])

    def rows(self, start: int, stop: int) -> dict[str, Shaped[Tensor, "rows ..."]]:
        """Read rows `start` to `stop` (exclusive) of every tensor.

        Rows of a single shard are views of the memory-mapped file: they take memory only as
        they are read, and writing to them does not reach the file. Rows of several are copied.

        Raises:
            IndexError: the range is empty or leaves the entry.
        """
        return self.read(self.names, start, stop)

    def tensor(self, name: str) -> Shaped[Tensor, "rows ..."]:
        """Read the whole of one tensor, as `rows` does."""
        return self.read([name], 0, len(self))[name]

    def read(
        self, names: Sequence[str], start: int, stop: int
    ) -> dict[str, Shaped[Tensor, "rows ..."]]:
        """As `rows`, but of the tensors called `names` only."""
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"rows {start}:{stop} of an entry with {len(self)} rows")
        step = self.manifest["rows_per_shard"]
        pieces: dict[str, list[Tensor]] = {name: [] for name in names}
        for index in range(start // step, (stop - 1) // step + 1):
            first = index * step
            file = self.path / self.manifest["shards"][index]["file"]
            with safe_open(file, framework="pt") as shard:
                for name in names:
                    rows = shard.get_tensor(name)[max(start - first, 0) : stop - first]
                    pieces[name].append(rows)
        return {
            name: rows[0] if len(rows) == 1 else torch.cat(rows) for name, rows in pieces.items()
        }


def open_entry(folder: Path) -> FeatureEntry | None:
    """Open the entry in a folder; None if it is incomplete.

    A shard counts as sound if its size and modification time are the manifest's. If only the time
    differs, as in a copied store, its checksum decides, and a sound one's new time goes into the
    manifest. Beyond that, a part of the shards is compared with its checksums: `ALWAYS_CHECKED` and
    `CHECKED_BYTES` say how much.

    Raises:
        DamageError: the manifest or a shard is missing, unreadable or altered.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    shards = list(_shards(folder, manifest))
    # Manifests of earlier versions have no checksum: those entries are checked whole, once.
    copied = CHECKSUM not in manifest
    drawn = {*range(len(shards))} if copied else _drawn([shard["size"] for _, _, shard in shards])
    for number, (path, rows, shard) in enumerate(shards):
        now = status(path)
        if now["size"] != shard["size"]:
            raise DamageError(f"{path} has {now['size']} bytes instead of {shard['size']}")
        moved = now["mtime_ns"] != shard["mtime_ns"]
        checked = moved or number in drawn
        if checked and check_shard(path, rows, shard["sha256"]) != manifest["tensors"]:
            raise DamageError(f"{path} does not hold the tensors that {MANIFEST} names")
        if moved:
            shard.update(now)
            copied = True
    if copied:
        with suppress(OSError):  # a read-only copy is checked each time
            write_manifest(folder, manifest)
    return FeatureEntry(folder, manifest)


def _drawn(sizes: Sequence[int]) -> set[int]:
    """Draw the shards that are compared with their checksums, given the sizes of all."""
    if sum(sizes) <= ALWAYS_CHECKED:
        return {*range(len(sizes))}
    chance = random.Random()  # of its own: a run's generator must not depend on the store
    number = chance.randrange(len(sizes))
    return {number} if chance.random() * sizes[number] < CHECKED_BYTES else set()


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write an entry's manifest, atomically, with a checksum of its own.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    write_json(folder / MANIFEST, {**manifest, CHECKSUM: _checksum(manifest)})


def _checksum(manifest: Mapping[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of an entry; None if it is incomplete.

    Raises:
        DamageError: the manifest cannot be read, is of another format, or was altered.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    check_is_file(path)
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DamageError(f"{path} is no JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamageError(f"{path} is not of format {FORMAT}")
    expected = manifest.get(CHECKSUM)  # Those of earlier versions have none.
    if expected not in (None, _checksum(manifest)) or not _is_whole(manifest):
        raise DamageError(f"{path} is damaged: its checksum differs, or something is missing in it")
    return manifest


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    """Say whether a manifest has the form that `FeatureEntry` describes."""
    rows, step = manifest.get("rows"), manifest.get("rows_per_shard")
    shards, tensors = manifest.get("shards"), manifest.get("tensors")
    return (
        type(rows) is type(step) is int
        and rows > 0
        and step > 0
        and isinstance(manifest.get("key"), dict)
        and isinstance(manifest.get("made_by"), dict)
        and isinstance(manifest.get("created_at"), str)
        and isinstance(tensors, dict)
        and all(
            isinstance(one, dict) and {"shape", "dtype"} <= one.keys() for one in tensors.values()
        )
        and isinstance(shards, list)
        and [shard.get("file") if isinstance(shard, dict) else None for shard in shards]
        == [shard_name(index) for index in range(shard_count(rows, step))]
        and all({"size", "mtime_ns", "sha256"} <= shard.keys() for shard in shards)
    )


def verify(folder: Path) -> list[str]:
    """Recompute the checksum of every shard of an entry; return what is damaged, file by file.

    The shards of an incomplete entry are not looked at: they are checked when it is continued.
    """
    try:
        manifest = read_manifest(folder)
    except DamageError as damage:
        return [str(damage)]
    damages = []
    for path, rows, shard in _shards(folder, manifest) if manifest else []:
        try:
            check_shard(path, rows, shard["sha256"])
        except DamageError as damage:
            damages.append(str(damage))
    return damages


def status(path: Path) -> dict[str, int]:
    """Give the size and the modification time of a shard.

    Raises:
        DamageError: there is no such file.
    """
    status = check_is_file(path)
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _shards(
    folder: Path, manifest: Mapping[str, Any]
) -> Iterator[tuple[Path, range, dict[str, Any]]]:
    """Go through a manifest's shards: the file, its rows, its record."""
    for index, shard in enumerate(manifest["shards"]):
        rows = shard_rows(index, manifest["rows"], manifest["rows_per_shard"])
        yield folder / shard["file"], rows, shard
