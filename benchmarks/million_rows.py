"""A dataset of a million rows in shards: indexing, start-up to the first batch, and memory.

Each size is measured in a process of its own, from its start to the moment when Lightning's loop is
given the first batch of decoded and preprocessed images: Python's imports and the backbone `tiny`
are among it. The images are of 4 x 4 pixels, 10,000 a shard. `million_rows.svg`, beside this file,
is a plot of how time and memory grow.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import machine
from benchmarks.side_by_side import Figure

SIZES = (1_000, 10_000, 100_000, 300_000, 1_000_000)
"""The first one shows what any run takes."""
CLASSES, SHOTS, BATCH = 100, 16, 64
ROWS_PER_SHARD, KEY_DIGITS = 10_000, 9
BLOCK = 512
ROUNDS = 3
TARGET_S, TARGET_GIB = 10.0, 1.0
PLOT = Path(__file__).with_suffix(".svg")
TINY = "local-dir:src/clip/tiny"


class _FirstBatchError(Exception):
    """The loop got its first batch."""


def figures() -> Iterator[Figure]:
    """Write shards, index them, and start on more and more of them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        began = time.perf_counter()
        for first in range(0, SIZES[-1], ROWS_PER_SHARD):
            write_shard(root / f"{first // ROWS_PER_SHARD:03}.tar", first, SIZES[-1])
        print(f"wrote {SIZES[-1]:,} images in {time.perf_counter() - began:.0f} s")
        small = root / "small.tar"
        write_shard(small, 0, SIZES[0])
        found = [in_a_process(root, rows) for rows in SIZES]
    rows_per_s = (SIZES[-1] - SIZES[0]) / sum(one["indexing_s"] for one in found)
    yield Figure(
        "a million rows: rows indexed per second, once",
        f"{rows_per_s:,.0f} rows/s", "", rows_per_s, None,
    )  # fmt: skip
    least, most = found[0], found[-1]
    yield Figure(
        "a million rows, index ready: seconds from the start of Python to the first batch",
        f"{most['first_batch_s']:.1f} s", f"{least['first_batch_s']:.1f} s for {SIZES[0]:,} rows",
        most["first_batch_s"], TARGET_S, at_least=False,
        limit=f"{most['busy_s']:.1f} s of the processor",
    )  # fmt: skip
    beyond = [(one["peak"] - least["peak"]) / machine.GIB for one in found]
    yield Figure(
        "a million rows: GiB at most beyond what a thousand take, before any feature",
        f"{beyond[-1]:.2f} GiB", "", beyond[-1], TARGET_GIB, at_least=False,
    )  # fmt: skip
    reading = [one["reading_s"] for one in found]
    yield Figure(
        "a million rows: seconds to open the index and list the splits",
        f"{reading[-1]:.2f} s", f"{reading[-3]:.2f} s for {SIZES[-3]:,}", reading[-1], None,
    )  # fmt: skip
    drawing = [one["drawing_s"] for one in found]
    yield Figure(
        f"a million rows: seconds to draw {SHOTS} images of each of {CLASSES} classes",
        f"{drawing[-1]:.2f} s", f"{drawing[-3]:.2f} s for {SIZES[-3]:,}", drawing[-1], None,
    )  # fmt: skip
    plot([one["first_batch_s"] for one in found], reading, beyond)


def write_shard(path: Path, first: int, end: int) -> None:
    """Write rows `first` to `first + ROWS_PER_SHARD`, or to `end`: an image and its class each."""
    numbers = np.arange(first, min(first + ROWS_PER_SHARD, end))
    labels = numbers % CLASSES
    images = np.stack([_image(label) for label in range(CLASSES)])
    blocks = np.zeros((len(numbers), 4, BLOCK), np.uint8)
    for place, ending, size in ((0, "png", len(_png(0))), (2, "cls", 3)):
        header = tarfile.TarInfo(f"{'0' * KEY_DIGITS}.{ending}")
        header.size = size
        blocks[:, place] = np.frombuffer(header.tobuf(tarfile.USTAR_FORMAT), np.uint8)
        blocks[:, place, :KEY_DIGITS] = _digits(numbers, KEY_DIGITS)
        blocks[:, place, 148:156] = ord(" ")
        sums = blocks[:, place].sum(axis=1)
        octal = sums[:, None] // 8 ** np.arange(5, -1, -1) % 8 + ord("0")
        blocks[:, place, 148:154] = octal
        blocks[:, place, 154] = 0
    blocks[:, 1] = images[labels]
    blocks[:, 3, :3] = _digits(labels, 3)
    path.write_bytes(blocks.tobytes() + bytes(2 * BLOCK))


def in_a_process(root: Path, rows: int) -> dict[str, float]:
    """Start on the first `rows` images in processes of their own, to index and then to measure.

    Returns:
        `indexing_s`, and with the index ready, the least of all rounds: `first_batch_s`, `busy_s`
        of the processor until then, `reading_s`, `drawing_s` and `peak`, in bytes.
    """
    last = rows // ROWS_PER_SHARD - 1
    pattern = f"{root}/{{000..{last:03}}}.tar" if last >= 0 else f"{root}/small.tar"
    told: list[dict[str, float]] = []
    for work in ("index_all", *["start_up"] * ROUNDS):
        command = f"from benchmarks.million_rows import {work}; {work}({pattern!r}, {str(root)!r})"
        began = time.time()
        done = subprocess.run(
            [sys.executable, "-c", command], check=True, capture_output=True, text=True
        )
        told.append(json.loads(done.stdout.splitlines()[-1]))
        if "first_batch_at" in told[-1]:
            told[-1]["first_batch_s"] = told[-1].pop("first_batch_at") - began
    rounds = told[1:]
    return {**told[0], **{name: min(one[name] for one in rounds) for name in rounds[0]}}


def index_all(pattern: str, store: str) -> None:
    """Open the dataset for the first time; print the seconds."""
    began = time.perf_counter()
    dataset(pattern, store)
    print(json.dumps({"indexing_s": time.perf_counter() - began}))


def start_up(pattern: str, store: str) -> None:
    """Go as a run does to the first batch of an extraction; print when and with what memory."""
    began = time.perf_counter()
    images = dataset(pattern, store)
    reading = time.perf_counter() - began
    from benchmarks.extraction import _quiet

    _quiet()
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(images, Path(folder))
        try:
            source.split("test", ["global"])
        except _FirstBatchError:
            at, peak, busy = time.time(), machine.peak_bytes(), time.process_time()
    from src.data.few_shot import sample

    began = time.perf_counter()
    train = images.splits["test"]
    sample(train, train, SHOTS if len(train) >= SHOTS * CLASSES else 1, seed=1)
    drawing = time.perf_counter() - began
    told = {"first_batch_at": at, "busy_s": busy, "peak": peak}
    print(json.dumps({**told, "reading_s": reading, "drawing_s": drawing}))


def dataset(pattern: str, store: str) -> Any:
    """Read the shards as test images."""
    from src.data.webdataset.reader import read

    return read(None, {"test": pattern}, None, "cls", 0, store)


def make_source(images: Any, store: Path) -> Any:
    """Make the source of a run's features, whose Trainer stops at the first batch."""
    from lightning import Callback

    from benchmarks.extraction import trainer
    from src.data.prompts import make_prompts
    from src.features.image_features import ImageFeatures
    from src.store.store import FeatureStore

    class Stop(Callback):
        def on_predict_batch_start(self, *_: Any) -> None:
            raise _FirstBatchError

    def stopping(callbacks: Sequence[Callback] = (), **settings: Any) -> Any:
        return trainer(callbacks=[*callbacks, Stop()], **settings)

    return ImageFeatures(
        name="million",
        dataset=images,
        prompts=make_prompts(images.class_names, ["a photo of a {}."]),
        backbone="tiny",
        architecture=TINY,
        pretrained=None,
        precision="32-true",
        batch_size=BATCH,
        store=FeatureStore(store),
        trainer=partial(stopping),
    )


def plot(first_batch: Sequence[float], reading: Sequence[float], beyond: Sequence[float]) -> None:
    """Draw seconds and memory against the rows."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9, 3), layout="constrained")
    curves = {
        "to the first batch, s": first_batch,
        "opening the index, s": reading,
        "memory beyond 1,000 rows, GiB": beyond,
    }
    for axes, (name, values) in zip(canvas.subplots(1, 3), curves.items(), strict=True):
        axes.plot(SIZES, values, marker="o")
        axes.set(xlabel="rows", ylabel=name, xlim=(0, None), ylim=(0, None))
        axes.ticklabel_format(axis="x", style="plain")
        axes.set_xticks([0, 500_000, 1_000_000], ["0", "500,000", "1,000,000"])
    canvas.savefig(PLOT, metadata={"Date": None})


def _png(label: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(label).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG", compress_level=0)  # all of one size
    return content.getvalue()


def _image(label: int) -> Any:
    content = _png(label)
    return np.frombuffer(content + bytes(BLOCK - len(content)), np.uint8)


def _digits(numbers: Any, count: int) -> Any:
    return (numbers[:, None] // 10 ** np.arange(count - 1, -1, -1) % 10 + ord("0")).astype(np.uint8)
