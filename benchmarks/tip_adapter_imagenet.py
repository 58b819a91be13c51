"""Tip-Adapter at ImageNet's size: the memory of scoring and searching, and how the time grows.

50,000 test images, 16 shots of 1,000 classes, 1,024 dimensions. `tip_adapter_imagenet.svg`, beside
this file, is a plot of the two curves.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.machine import GIB
from benchmarks.side_by_side import Figure
from src.heads.support import Support
from src.heads.tip_adapter import TipAdapter
from src.methods.search import Range, Search

IMAGES, SHOTS, CLASSES, DIMENSIONS = 50_000, 16, 1000, 1024
LOGIT_SCALE = 100.0
BETA, ALPHA = Range("beta", 0.1, 7.0, 200), Range("alpha", 0.1, 3.0, 20)
DEFAULT = {"beta": 1.0, "alpha": 1.17}
BATCH = 256
ROUNDS = 2
PARTS = (1 / 8, 1 / 4, 1 / 2, 1.0)
PLOT = Path(__file__).with_suffix(".svg")


def features(n: int, seed: int) -> Tensor:
    """Make features as the store holds them, in float16."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, DIMENSIONS, generator=generator).half()


def head_of(keys: Tensor, key_label: Tensor) -> Any:
    """Make a head with these keys in its cache."""
    text = torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(2))
    head = TipAdapter(text, LOGIT_SCALE, DEFAULT["alpha"], DEFAULT["beta"])
    head.prepare(Support({"global": keys.unsqueeze(0)}, key_label))
    return head


def score(head: Any, images: Tensor) -> float:
    """Classify all images; return the fewest seconds of some rounds."""

    def once() -> None:
        for batch in torch.split(images, BATCH):
            head(batch.float()).argmax(dim=1)

    return machine.best_of(once, ROUNDS)


def search(head: Any, images: Tensor, label: Tensor) -> float:
    """Search for beta and alpha on all images; return the seconds."""
    began = time.perf_counter()
    searched = Search("exact", BETA, ALPHA, DEFAULT)
    for batch, of_batch in zip(torch.split(images, BATCH), torch.split(label, BATCH), strict=True):
        searched.add(head, [batch.float()], of_batch)
    searched.best()
    return time.perf_counter() - began


def growth(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Give the exponent with which the time grows from the smallest size to the largest."""
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])


def plot(curves: dict[str, tuple[list[int], list[float]]]) -> None:
    """Draw the time of scoring against the size."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 3), layout="constrained")
    for axes, (name, (sizes, seconds)) in zip(
        canvas.subplots(1, len(curves)), curves.items(), strict=True
    ):
        axes.plot(sizes, seconds, marker="o")
        axes.set(xlabel=name, ylabel="scoring, s", xlim=(0, None), ylim=(0, None))
    canvas.savefig(PLOT, metadata={"Date": None})


def figures() -> Iterator[Figure]:
    """Measure the curves, then score and search at full size and see what memory that took."""
    images, keys = features(IMAGES, seed=0), features(SHOTS * CLASSES, seed=1)
    label = torch.arange(IMAGES) % CLASSES
    key_label = torch.arange(len(keys)) % CLASSES
    with torch.inference_mode():
        head = head_of(keys, key_label)
        before = machine.peak_bytes()
        by_test, by_cache = [], []
        for part in PARTS:
            by_test.append(score(head, images[: int(part * IMAGES)]))
            own = int(part * len(keys))
            by_cache.append(score(head_of(keys[:own], key_label[:own]), images[: IMAGES // 4]))
        searching = search(head, images, label)
        beyond = (machine.peak_bytes() - before) / GIB
    size = f"{IMAGES:,} × {len(keys):,} × {CLASSES:,}, D={DIMENSIONS}"
    yield Figure(
        f"Tip-Adapter, {size}: GiB beyond the inputs, scoring and search",
        f"{by_test[-1]:.1f} s, {searching:.0f} s", "", beyond, 2.0, at_least=False,
        limit="scoring at " + machine.share(
            by_test[-1], operations=2 * IMAGES * DIMENSIONS * (len(keys) + CLASSES)
        ),
    )  # fmt: skip
    tests = [int(part * IMAGES) for part in PARTS]
    caches = [int(part * len(keys)) for part in PARTS]
    curves = {"test images": (tests, by_test), f"keys, {IMAGES // 4:,} images": (caches, by_cache)}
    plot(curves)
    for name, (sizes, seconds) in curves.items():
        yield Figure(
            f"Tip-Adapter: time grows with {name} to the power of",
            f"{seconds[0]:.2f} s to {seconds[-1]:.2f} s", f"{sizes[0]:,} to {sizes[-1]:,}",
            growth(sizes, seconds), 1.1, at_least=False,
        )  # fmt: skip
