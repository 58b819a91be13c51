"""The feature store on disk: extract once, read memory-mapped ever after.

An entry is a folder `<root>/<dataset>/<split>-<backbone>-<hash of the key>` of safetensors shards,
each with a checksum of its own, and a `manifest.json` that is written last: an entry without one
is incomplete, and the next run continues where the last one stopped.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from jaxtyping import Shaped
from safetensors import safe_open
from torch import Tensor

from src.errors import UserError
from src.features.shards import (
    FORMAT,
    DamageError,
    check_shard,
    describe,
    shard_count,
    shard_name,
    shard_rows,
    write_shard,
)
from src.files import write_json

MANIFEST = "manifest.json"
AT_ONCE = 2
"""Shards that are written at a time."""
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class EntryWriter:
    """Writes the missing shards of an entry, from one process or from every rank of a job.

    The disk works behind: while one shard waits for it, the next one's checksum is computed.

    Attributes:
        pending: indices of the shards that were missing when writing began.
    """

    path: Path
    key: Mapping[str, Any]
    rows: int
    rows_per_shard: int
    made_by: Mapping[str, str]
    pending: list[int]
    disk: Executor
    begun: list[Future[None]] = field(default_factory=list)

    def rows_of(self, shard: int) -> range:
        """Return the rows that a shard holds: `rows_per_shard` of them, fewer in the last."""
        return shard_rows(shard, self.rows, self.rows_per_shard)

    def write(self, shard: int, tensors: Mapping[str, Shaped[Tensor, "rows ..."]]) -> None:
        """Begin to write one shard, atomically, in the dtypes given; do not change `tensors` then.

        Raises:
            ValueError: a tensor does not have one row for each of `rows_of(shard)`.
            OSError: a shard before it could not be written.
        """
        path, rows = self.path / shard_name(shard), self.rows_of(shard)
        for name, tensor in tensors.items():
            if len(tensor) != len(rows):
                raise ValueError(f"{name} has {len(tensor)} rows, {path.name} {len(rows)}")
        if len(self.begun) == AT_ONCE:
            self.begun.pop(0).result()
        self.begun.append(self.disk.submit(write_shard, path, rows, tensors))

    def wait(self) -> None:
        """Wait until all shards are written that `write` was given.

        Raises:
            OSError: the folder cannot be written or the disk is full.
        """
        while self.begun:
            self.begun.pop(0).result()

    def finish(self) -> None:
        """Write the manifest; in a job of several processes, rank 0 alone, after all have written.

        Raises:
            RuntimeError: a shard was never written.
            ValueError: the shards differ in their tensors.
            OSError: as `wait`.
        """
        self.wait()
        shards, tensors = [], None
        for index in range(shard_count(self.rows, self.rows_per_shard)):
            path = self.path / shard_name(index)
            if not path.exists():
                raise RuntimeError(f"{path} was never written")
            with safe_open(path, framework="pt") as shard:
                metadata = shard.metadata()
                found = {name: describe(shard.get_tensor(name)) for name in shard.keys()}  # noqa: SIM118
            if tensors not in (None, found):
                raise ValueError(f"{path} holds {found}, the shards before it {tensors}")
            tensors = found
            shards.append({"file": path.name, "sha256": metadata["sha256"], **_status(path)})
        write_json(
            self.path / MANIFEST,
            {
                "format": FORMAT,
                "key": dict(self.key),
                "rows": self.rows,
                "rows_per_shard": self.rows_per_shard,
                "tensors": tensors,
                "shards": shards,
                "made_by": {"torch": str(torch.__version__), **self.made_by},
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )


class FeatureStore:
    """The entries below one folder, each found by its key.

    A key is a JSON-able mapping of everything that changes a feature, among it `dataset`, `split`
    and `backbone`, which name the entry's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, key: Mapping[str, Any]) -> FeatureEntry | None:
        """Return the entry if it is complete and sound, else None.

        A shard counts as sound if its size and modification time are the manifest's. If only the
        time differs, as in a copied store, its checksum decides, and a sound one's new time goes
        into the manifest. Damage is logged as a warning; `writing` then mends it.
        """
        try:
            return _open(self._folder(key))
        except DamageError as damage:
            logger.warning("%s; it will be made again", damage)
            return None

    @contextmanager
    def writing(
        self,
        key: Mapping[str, Any],
        rows: int,
        rows_per_shard: int,
        made_by: Mapping[str, str] | None = None,
    ) -> Iterator[EntryWriter]:
        """Hold the entry's lock and yield its writer.

        Sound shards of an interrupted run are kept; whatever else the folder holds is removed.
        If nothing is pending the entry is complete; another process may have completed it while
        this one waited. In a distributed job only rank 0 locks and cleans, so every rank has to
        enter before rank 0 writes, and rank 0's `pending` is the one that counts.

        Args:
            key: as for `open`.
            rows: rows of the whole entry, at least 1.
            rows_per_shard: rows of every shard but the last, at least 1.
            made_by: versions to record beside torch's.

        Raises:
            OSError: the store cannot be written.
        """
        if rows < 1 or rows_per_shard < 1:
            raise ValueError(f"rows={rows} and rows_per_shard={rows_per_shard} must be positive")
        folder = self._folder(key)
        leader = all(os.environ.get(rank, "0") == "0" for rank in RANKS)
        with _locked(folder) if leader else nullcontext():
            entry = None
            with suppress(DamageError):
                entry = _open(folder)
            if entry:
                rows_per_shard, pending = entry.manifest["rows_per_shard"], []
            else:
                pending = _pending(folder, rows, rows_per_shard)
            with ThreadPoolExecutor(AT_ONCE) as disk:
                about = made_by or {}
                writer = EntryWriter(folder, key, rows, rows_per_shard, about, pending, disk)
                if leader and not entry:
                    _clean(folder, set(range(shard_count(rows, rows_per_shard))) - set(pending))
                    if not pending:  # interrupted between the last shard and the manifest
                        writer.finish()
                yield writer
                writer.wait()

    def entries(self) -> list[Path]:
        """List the folders of all entries, complete or not."""
        return sorted(path for path in self.root.glob("*/*") if path.is_dir())

    def _folder(self, key: Mapping[str, Any]) -> Path:
        canonical = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        name = f"{_file_safe(key['split'])}-{_file_safe(key['backbone'])}-{digest}"
        return self.root / _file_safe(key["dataset"]) / name


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


def remove(folder: Path) -> None:
    """Remove an entry, and its dataset's folder if that was the last one.

    Raises:
        UserError: a running process is writing the entry.
    """
    lock = _lock(folder)
    try:
        with lock.acquire(blocking=False):
            shutil.rmtree(folder)
            Path(lock.lock_file).unlink()
    except Timeout:
        raise UserError(f"{folder} is being written: wait for that run, or end it.") from None
    with suppress(OSError):
        folder.parent.rmdir()


def _open(folder: Path) -> FeatureEntry | None:
    """Open an entry as `FeatureStore.open` says, but raise a DamageError where it warns."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    copied = False
    for path, rows, shard in _shards(folder, manifest):
        try:
            status = _status(path)
        except FileNotFoundError:
            raise DamageError(f"{path} is missing") from None
        if status["size"] != shard["size"]:
            raise DamageError(f"{path} has {status['size']} bytes instead of {shard['size']}")
        if status["mtime_ns"] != shard["mtime_ns"]:
            check_shard(path, rows, shard["sha256"])
            shard.update(status)
            copied = True
    if copied:
        with suppress(OSError):  # a read-only copy is checked anew each time
            write_json(folder / MANIFEST, manifest)
    return FeatureEntry(folder, manifest)


def _shards(
    folder: Path, manifest: Mapping[str, Any]
) -> Iterator[tuple[Path, range, dict[str, Any]]]:
    """Go through a manifest's shards: the file, its rows, its record."""
    for index, shard in enumerate(manifest["shards"]):
        rows = shard_rows(index, manifest["rows"], manifest["rows_per_shard"])
        yield folder / shard["file"], rows, shard


def _pending(folder: Path, rows: int, rows_per_shard: int) -> list[int]:
    """List the shards that are not soundly on disk."""
    pending = []
    for index in range(shard_count(rows, rows_per_shard)):
        path = folder / shard_name(index)
        try:
            check_shard(path, shard_rows(index, rows, rows_per_shard))
        except DamageError as damage:
            pending.append(index)
            if path.exists():
                logger.info("%s; making it again", damage)
    return pending


def _clean(folder: Path, keep: set[int]) -> None:
    """Remove all but the shards to keep: damaged ones, a stale manifest, temporary files."""
    names = {shard_name(index) for index in keep}
    for path in folder.glob("*"):
        if path.name not in names:
            path.unlink()


def _status(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _file_safe(name: str) -> str:
    return re.sub(r"^$|^\.|[^A-Za-z0-9_.-]", "_", name)


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f"{folder.name}.lock"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("another process is extracting %s; waiting", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
