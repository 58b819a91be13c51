"""Extraction on a GPU beside the usual loop of open_clip on it, in half precision.

The usual loop casts the model and each batch, which it copies when it comes: a DataLoader with
workers, `no_grad`. Without a GPU nothing is measured, and that is said. The weights are random.
"""

import os
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils.data import DataLoader

from benchmarks import extraction
from benchmarks.side_by_side import Figure, Turns, take_turns
from src.clip.model import FrozenClip
from src.data.images import ImageFiles

PRECISIONS = {"bf16-true": torch.bfloat16, "16-true": torch.float16}
NEVER_SLOWER = 1.0
ALIKE = 0.999
IMAGES, BATCH = 2048, 256
"""Photographs, some of them again and again, and how many in a forward pass."""


def figures() -> Iterator[Figure]:
    """Measure each model in each precision, if there is a GPU."""
    if not torch.cuda.is_available():
        print("extraction on a GPU: not measured, because there is none")
        return
    yield from on(torch.device("cuda"), torch.cuda.get_device_name())


def on(
    device: torch.device, name: str, images: int = IMAGES, batch: int = BATCH
) -> Iterator[Figure]:
    """Measure on a device that is called `name`."""
    extraction._quiet()
    with tempfile.TemporaryDirectory() as folder:
        kind, dataset = extraction.photographs(Path(folder))
        for architecture in extraction.MODELS:
            clip = extraction._calibrated(FrozenClip.load(architecture, None), dataset)
            for precision in PRECISIONS:
                turns = extracting(clip, precision, dataset, device, images, batch)
                ours, plain = (images / turns.median(way) for way in ("ours", "plain"))
                what = f"{architecture}, {precision}"
                yield Figure(
                    f"{kind} to features on {name}, {what}", f"{ours:.0f} images/s",
                    f"{plain:.0f} images/s", turns.ratio("plain"), NEVER_SLOWER,
                )  # fmt: skip
                least = float(cosine_similarity(*turns.results.values()).min())
                yield Figure(
                    f"least cosine similarity to that loop's features, {what}",
                    f"{least:.5f}", "", least, ALIKE,
                )  # fmt: skip


def extracting(
    clip: FrozenClip,
    precision: str,
    dataset: ImageFiles,
    device: torch.device,
    images: int,
    batch: int,
) -> Turns:
    """Extract into a store, and collect what the usual loop makes of the same files."""
    once = dataset.splits["test"]
    items = [once[number % len(once)] for number in range(images)]
    copy, dtype = deepcopy(clip), PRECISIONS[precision]
    usual = deepcopy(clip.model).to(device, dtype)
    loader = DataLoader(
        extraction._Photographs(dataset, items, clip), batch, num_workers=os.cpu_count() or 1
    )
    trainer = partial(_trainer, device)

    def ours() -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            return extraction._extracted(
                dataset, items, copy, precision, Path(folder), batch, trainer
            )

    def plain() -> Tensor:
        with torch.no_grad():
            found = [usual.encode_image(each.to(device, dtype)).float().cpu() for each in loader]
        return torch.cat(found)

    return take_turns(rounds=extraction.ROUNDS, ours=ours, plain=plain)


def _trainer(device: torch.device, **settings: object) -> Trainer:
    return extraction.trainer(accelerator=device.type, devices=1, **settings)
