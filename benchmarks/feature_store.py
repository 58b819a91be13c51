"""The feature store: writing beside the disk's own rate, opening an entry, and its memory.

The entry is of RN50's size, as a run writes it: 49 positions of 1,024 dimensions and the global
feature in float16, 128 images a shard.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.machine import GIB
from benchmarks.side_by_side import Figure, take_turns
from src.store.entry import FeatureEntry
from src.store.store import FeatureStore, remove

IMAGES_PER_SHARD, POSITIONS, DIMENSIONS = 128, 49, 1024
BYTES_PER_IMAGE = 2 * (POSITIONS + 1) * DIMENSIONS + 8
SHARDS = 2 * 10**9 // (IMAGES_PER_SHARD * BYTES_PER_IMAGE) + 1
ROUNDS = 3
OPENINGS = 20


def shard() -> dict[str, Tensor]:
    """Make one shard's tensors."""
    generator = torch.Generator().manual_seed(0)
    spatial = torch.randn(IMAGES_PER_SHARD, POSITIONS, DIMENSIONS, generator=generator).half()
    return {"global": spatial[:, 0], "spatial": spatial, "label": torch.arange(IMAGES_PER_SHARD)}


def figures() -> Iterator[Figure]:
    """Write an entry of 2 GB and a plain file of the same size, open it, read it."""
    tensors = shard()
    rows = SHARDS * IMAGES_PER_SHARD
    size = rows * BYTES_PER_IMAGE
    block = os.urandom(size // SHARDS)
    key = {"dataset": "benchmark", "split": "test", "backbone": "rn50"}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = FeatureStore(Path(folder))

        def ours() -> None:
            for entry in store.entries():
                remove(entry)
            with store.writing(key, rows, IMAGES_PER_SHARD) as writer:
                for index in writer.pending:
                    writer.write(index, tensors)
                writer.finish()

        def plain() -> None:
            path = Path(folder, "plain")
            path.unlink(missing_ok=True)
            with path.open("wb") as file:
                for _ in range(SHARDS):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())

        writing = take_turns(rounds=ROUNDS, plain=plain, ours=ours)
        yield Figure(
            f"feature store: writing {size / 1e9:.1f} GB in {SHARDS} shards, share of the disk's",
            f"{size / writing.median('ours') / 1e6:.0f} MB/s",
            f"{size / writing.median('plain') / 1e6:.0f} MB/s",
            writing.ratio("plain"),
            0.5,
        )
        before = machine.resident_bytes()

        def opening() -> FeatureEntry:
            entry = store.open(key)
            assert entry is not None
            return entry

        opened = take_turns(rounds=OPENINGS, opening=opening)
        held = (machine.resident_bytes() - before) / GIB
        yield Figure(
            "feature store: seconds to open that entry, one shard of it checked",
            f"{1000 * opened.median('opening'):.1f} ms", "", opened.median("opening"), 0.05,
            at_least=False,
        )  # fmt: skip
        yield Figure(
            "feature store: GiB held by the open entry before it is read",
            "", "", held, 0.01, at_least=False,
        )  # fmt: skip
