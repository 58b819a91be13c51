"""The feature store on disk: features are extracted once and then read memory-mapped.

An entry is a folder `<root>/<dataset>/<split>-<backbone>-<hash of the key>` of safetensors shards,
each with a checksum of its own, and a `manifest.json` that is written last: an entry without one
is incomplete, and the next run continues where the last one stopped.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from src.errors import UserError
from src.store.entry import FeatureEntry, open_entry
from src.store.shards import DamageError, shard_count
from src.store.writer import AT_ONCE, EntryWriter, clean, find_pending

logger = logging.getLogger(__name__)


class FeatureStore:
    """The entries below one folder, each found by its key.

    A key is a JSON-able mapping of everything that changes a feature, among it `dataset`, `split`
    and `backbone`, which name the entry's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, key: Mapping[str, Any]) -> FeatureEntry | None:
        """Return the entry if it is complete and sound, else None.

        What counts as sound, `open_entry` says. Damage is logged as a warning; `writing` then mends
        it.
        """
        try:
            return open_entry(self.folder(key))
        except DamageError as damage:
            logger.warning("%s; it will be made again", damage)
            return None

    def open_written(self, key: Mapping[str, Any]) -> FeatureEntry | None:
        """As `open`; if a process is writing the entry, wait until it has ended."""
        folder = self.folder(key)
        if not Path(_lock(folder).lock_file).exists():
            return None
        with _locked(folder):
            return self.open(key)

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
        this one waited.

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
        folder = self.folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            entry = None
            with suppress(DamageError):
                entry = open_entry(folder)
            if entry:
                rows_per_shard, pending = entry.manifest["rows_per_shard"], []
            else:
                pending = find_pending(folder, rows, rows_per_shard)
            with ThreadPoolExecutor(AT_ONCE) as disk:
                about = made_by or {}
                writer = EntryWriter(folder, key, rows, rows_per_shard, about, pending, disk)
                if not entry:
                    clean(folder, set(range(shard_count(rows, rows_per_shard))) - set(pending))
                    # A run may have been interrupted between the last shard and the manifest.
                    if not pending:
                        writer.finish()
                yield writer
                writer.wait()

    def entries(self) -> list[Path]:
        """List the folders of all entries, complete or not."""
        return sorted(path for path in self.root.glob("*/*") if path.is_dir())

    def folder(self, key: Mapping[str, Any]) -> Path:
        """Name the folder of an entry, whether it exists or not."""
        canonical = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        name = f"{_file_safe(key['split'])}-{_file_safe(key['backbone'])}-{digest}"
        return self.root / _file_safe(key["dataset"]) / name


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


def _file_safe(name: str) -> str:
    return re.sub(r"^$|^\.|[^A-Za-z0-9_.-]", "_", name)


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f"{folder.name}.lock"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
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
