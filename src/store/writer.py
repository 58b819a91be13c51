"""Writing an entry of the feature store, shard by shard; the manifest comes last."""

import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from src.files import flush
from src.store.entry import status, write_manifest
from src.store.shards import (
    FORMAT,
    DamageError,
    check_shard,
    describe,
    shard_count,
    shard_name,
    shard_rows,
    write_shard,
)

AT_ONCE = 2
"""How many shards are written at the same time."""
PART = ".from-"
"""What the name of a part of a shard has between that of the shard and its first row."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EntryWriter:
    """Writes the missing shards of an entry, from one process or from several.

    The disk works in the background: while one shard is written, the checksum of the next one is
    computed.

    Attributes:
        pending: indices of the shards that were missing when writing began.
        disk: what writes; None on the way to another process, which has one of its own.
    """

    path: Path
    key: Mapping[str, Any]
    rows: int
    rows_per_shard: int
    made_by: Mapping[str, str]
    pending: list[int]
    disk: Executor | None
    begun: list[Future[None]] = field(default_factory=list)

    def rows_of(self, shard: int) -> range:
        """Return the rows that a shard holds: `rows_per_shard` of them, fewer in the last."""
        return shard_rows(shard, self.rows, self.rows_per_shard)

    def write(
        self,
        shard: int,
        tensors: Mapping[str, Shaped[Tensor, "rows ..."]],
        part: range | None = None,
    ) -> None:
        """Begin to write one shard, atomically, in the dtypes given; do not change `tensors` then.

        Args:
            shard: its index.
            tensors: its rows.
            part: which rows of the entry they are, where other processes have the shard's others;
                None: all of `rows_of(shard)`.

        Raises:
            ValueError: a tensor does not have one row for each of them.
            OSError: a shard before it could not be written.
        """
        whole = self.rows_of(shard)
        rows = whole if part is None else part
        path = self.path / shard_name(shard)
        if rows != whole:
            path = path.with_name(f"{path.name}{PART}{rows.start:012}")
        for name, tensor in tensors.items():
            if len(tensor) != len(rows):
                raise ValueError(f"{name} has {len(tensor)} rows, {path.name} {len(rows)}")
        assert self.disk is not None
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

    def join(self) -> None:
        """Make whole shards of the parts that several processes wrote.

        Raises:
            ValueError: a part was never written.
            OSError: as `wait`.
        """
        for shard in self.pending:
            parts = sorted(self.path.glob(f"{shard_name(shard)}{PART}*"))
            if not parts:
                continue
            pieces = [load_file(part) for part in parts]
            self.write(
                shard, {name: torch.cat([one[name] for one in pieces]) for name in pieces[0]}
            )
            self.wait()
            for part in parts:
                part.unlink()

    def finish(self) -> None:
        """Write the manifest; of several processes one does, after all have written.

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
            # The content must be on the disk before the manifest says that it is sound.
            flush(path)
            with safe_open(path, framework="pt") as shard:
                metadata = shard.metadata()
                found = {name: describe(shard.get_tensor(name)) for name in shard.keys()}  # noqa: SIM118
            if tensors not in (None, found):
                raise ValueError(f"{path} holds {found}, the shards before it {tensors}")
            tensors = found
            shards.append({"file": path.name, "sha256": metadata["sha256"], **status(path)})
        write_manifest(
            self.path,
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


def find_pending(folder: Path, rows: int, rows_per_shard: int) -> list[int]:
    """List the shards of an entry that are not soundly on disk."""
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


def clean(folder: Path, keep: set[int]) -> None:
    """Remove all but the shards to keep: damaged ones, a stale manifest, temporary files."""
    names = {shard_name(index) for index in keep}
    for path in folder.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in names:
            path.unlink()
