"""A complete entry of the feature store: opening, reading and verifying it."""

import json
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
from src.store.shards import FORMAT, DamageError, check_shard, shard_rows

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FeatureEntry:
    """A complete entry, read on demand.

    Attributes:
        path: the entry's folder.
        manifest: `key`, `rows`, `rows_per_shard`, `tensors` (name → `shape` of a row, `dtype`),
            `shards` (`file`, `size` in bytes, `mtime_ns`, `sha256`), `made_by` (versions) and
            `created_at` (ISO 8601, UTC).
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
        return self._read(self.names, start, stop)

    def tensor(self, name: str) -> Shaped[Tensor, "rows ..."]:
        """Read the whole of one tensor, as `rows` does."""
        return self._read([name], 0, len(self))[name]

    def _read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Tensor]:
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
    manifest.

    Raises:
        DamageError: the manifest or a shard is missing, unreadable or altered.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    copied = False
    for path, rows, shard in _shards(folder, manifest):
        try:
            now = status(path)
        except FileNotFoundError:
            raise DamageError(f"{path} is missing") from None
        if now["size"] != shard["size"]:
            raise DamageError(f"{path} has {now['size']} bytes instead of {shard['size']}")
        if now["mtime_ns"] != shard["mtime_ns"]:
            check_shard(path, rows, shard["sha256"])
            shard.update(now)
            copied = True
    if copied:
        with suppress(OSError):  # a read-only copy is checked each time
            write_json(folder / MANIFEST, manifest)
    return FeatureEntry(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of an entry; None if it is incomplete.

    Raises:
        DamageError: the manifest cannot be read, or is of another format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamageError(f"{path} is no JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamageError(f"{path} is not of format {FORMAT}")
    return manifest


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
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _shards(
    folder: Path, manifest: Mapping[str, Any]
) -> Iterator[tuple[Path, range, dict[str, Any]]]:
    """Go through a manifest's shards: the file, its rows, its record."""
    for index, shard in enumerate(manifest["shards"]):
        rows = shard_rows(index, manifest["rows"], manifest["rows_per_shard"])
        yield folder / shard["file"], rows, shard
