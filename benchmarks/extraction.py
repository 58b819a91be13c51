"""Extraction beside the usual loop of open_clip: float32, a DataLoader with workers, no_grad.

Measured in the precision that `auto` chooses on this processor, and once more in a process whose
units for bfloat16 are switched off. The weights are random, which changes nothing in speed; a
ResNet's statistics are those of the images, so that its activations have a trained model's size.
"""

import logging
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning import Trainer
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine
from benchmarks.side_by_side import Figure, Turns, take_turns
from src.clip.model import FrozenClip
from src.clip.precision import AUTO, BFLOAT16, FLOAT32, has_bfloat16_units, resolve
from src.data.digits import read
from src.data.images import ImageDataset, ImageFiles, Item
from src.data.prompts import make_prompts
from src.features.extract import Encoder, extract
from src.features.plan import crop_by_crop
from src.store.store import FeatureStore

MODELS = {"RN50-quickgelu": (2.5, 2.0), "ViT-B-32-quickgelu": (2.3, 1.5)}
"""The targets with units for bfloat16: for encoding only, and with decoding and resizing."""
NEVER_SLOWER = 1.0
TINY = "local-dir:src/clip/tiny"
PHOTOGRAPHS = Path(__file__).parents[2] / "shared/dtd/images"
ENCODED, DECODED, BATCH = 32, 64, 8
CALIBRATION = 16
ROUNDS = 5
UNITS_OFF = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def figures() -> Iterator[Figure]:
    """Measure with the units for bfloat16, if there are any, and without."""
    if has_bfloat16_units():
        yield from speed(BFLOAT16)
        yield from fidelity_of_tiny()
    else:
        print("extraction in bfloat16: not measured, because there are no units for it")
    os.environ |= (
        UNITS_OFF  # This is for the process that is started next: torch has already read its own.
    )
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as processes:
        yield from processes.submit(speed_without_units).result()


def speed_without_units() -> list[Figure]:
    """Measure on processors where `auto` must have chosen float32."""
    return list(speed(FLOAT32))


def speed(expected: str) -> Iterator[Figure]:
    """Encode images in memory, then extract from files, beside the usual loop."""
    _quiet()
    precision = resolve(AUTO, trainer)
    assert precision == expected
    dtype = torch.bfloat16 if precision == BFLOAT16 else torch.float32
    name = str(dtype).removeprefix("torch.")
    rate = machine.matrix_product_rate(dtype)
    with tempfile.TemporaryDirectory() as folder:
        kind, dataset = photographs(Path(folder))
        for architecture, targets in MODELS.items():
            clip = _calibrated(FrozenClip.load(architecture, None), dataset)
            goals = targets if precision == BFLOAT16 else (NEVER_SLOWER, NEVER_SLOWER)
            limit = rate / operations(clip)
            model = f"{architecture}, {name}"
            turns = encoding(clip, precision)
            yield _figure(f"encoding, {model}", turns, ENCODED, goals[0], limit)
            turns = extracting(clip, precision, dataset)
            yield _figure(f"{kind} to features, {model}", turns, DECODED, goals[1], limit)
            least = float(cosine_similarity(turns.results["ours"], turns.results["plain"]).min())
            yield Figure(
                f"least cosine similarity to open_clip's features, {model}",
                f"{least:.5f}", "", least, 0.999,
            )  # fmt: skip


def encoding(clip: FrozenClip, precision: str) -> Turns:
    """Encode what is in memory: the predict step in Lightning's loop, and `encode_image`."""
    images = torch.split(torch.randn(ENCODED, 3, *clip.image_size), BATCH)
    batches = [{"shard": 0, "images": one, "label": torch.zeros(len(one))} for one in images]
    loader: DataLoader[Any] = DataLoader(_Batches(batches), batch_size=None)
    runner, encoder = trainer(precision=precision), Encoder(deepcopy(clip), ["global"])

    def ours() -> None:
        runner.predict(encoder, loader, return_predictions=False)

    def plain() -> None:
        with torch.no_grad():
            for one in images:
                clip.model.encode_image(one)

    return take_turns(rounds=ROUNDS, ours=ours, plain=plain)


def extracting(clip: FrozenClip, precision: str, dataset: ImageFiles) -> Turns:
    """Extract into a store, and collect what the usual loop makes of the same files."""
    items = dataset.splits["test"]
    copy = deepcopy(clip)
    loader = DataLoader(
        _Photographs(dataset, items, clip), batch_size=BATCH, num_workers=os.cpu_count() or 1
    )

    def ours() -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            return _extracted(dataset, items, copy, precision, Path(folder))

    def plain() -> Tensor:
        with torch.no_grad():
            return torch.cat([clip.model.encode_image(images) for images in loader])

    return take_turns(rounds=ROUNDS, ours=ours, plain=plain)


def fidelity_of_tiny() -> Iterator[Figure]:
    """Classify all digits by features in bfloat16 and in float32, with trained weights."""
    dataset = read()
    items = [item for split in dataset.splits.values() for item in split]
    prompts = make_prompts(dataset.class_names, ['a photo of the number: "{}".'])
    features = {}
    for precision in (BFLOAT16, FLOAT32):
        with tempfile.TemporaryDirectory() as folder:
            clip = FrozenClip.load(TINY, None)
            features[precision] = _extracted(
                dataset, items, clip, precision, Path(folder), batch_size=256
            )
    text = FrozenClip.load(TINY, None).encode_text(prompts).text
    half, full = features[BFLOAT16], features[FLOAT32]
    same = float(((half @ text.T).argmax(dim=1) == (full @ text.T).argmax(dim=1)).float().mean())
    yield Figure(
        f"same top-1 of {len(items):,} digits, tiny, bfloat16", f"{same:.2%}", "", same, 0.995
    )
    least = float(cosine_similarity(half, full).min())
    yield Figure(
        "least cosine similarity to float32, tiny, bfloat16", f"{least:.5f}", "", least, 0.999
    )


def operations(clip: FrozenClip) -> int:
    """Count the floating-point operations of open_clip's own way through one image."""
    torch.backends.mha.set_fastpath_enabled(False)  # The counter does not know the fused operator.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        clip.model.encode_image(torch.zeros(1, 3, *clip.image_size))
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


def photographs(folder: Path) -> tuple[str, ImageFiles]:
    """Find DTD's photographs beside the checkout, or make noise of their size in `folder`."""
    paths = sorted(PHOTOGRAPHS.rglob("*.jpg"))
    kind, root = "DTD's JPEGs", PHOTOGRAPHS
    if len(paths) < DECODED:
        kind, root, generator = "JPEGs of noise", folder, np.random.default_rng(0)
        paths = [folder / f"{number:03}.jpg" for number in range(DECODED)]
        for path in paths:
            size = generator.integers(300, 641, 2)
            Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    chosen = paths[:: len(paths) // DECODED][:DECODED]
    items = [Item(path.relative_to(root).as_posix(), 0) for path in chosen]
    return kind, ImageFiles(root, ["texture"], {"train": [], "val": [], "test": items})


class _Batches(Dataset[dict[str, Any]]):
    def __init__(self, batches: Sequence[dict[str, Any]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batches[index]


class _Photographs(Dataset[Tensor]):
    def __init__(self, dataset: ImageDataset, items: Sequence[Item], clip: FrozenClip) -> None:
        self.dataset, self.items, self.preprocess = dataset, items, clip.preprocess

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Float[Tensor, "3 h w"]:
        pixels: Tensor = self.preprocess(self.dataset.load(self.items[index]))
        return pixels


def _extracted(
    dataset: ImageDataset,
    items: Sequence[Item],
    clip: FrozenClip,
    precision: str,
    folder: Path,
    batch_size: int = BATCH,
) -> Float[Tensor, "n d"]:
    """Extract as a run does, and return the global features as they are stored."""
    store, key = FeatureStore(folder), {"dataset": "d", "split": "test", "backbone": "b"}
    runner = partial(trainer, precision=precision)
    plan = crop_by_crop(items, None, batch_size)
    with store.writing(key, len(items), plan.rows_per_shard) as writer:
        extract(dataset, plan, ["global"], writer, lambda: clip, runner)
    entry = store.open(key)
    assert entry is not None
    return entry.tensor("global").float()


def _calibrated(clip: FrozenClip, dataset: ImageFiles) -> FrozenClip:
    """Set the statistics of batch normalisations to those of some images."""
    images = [clip.preprocess(dataset.load(item)) for item in dataset.splits["test"][:CALIBRATION]]
    for module in clip.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average
            module.train()
    clip.encode_image(torch.stack(images))
    clip.eval()
    return clip


def trainer(**settings: Any) -> Trainer:
    """Make the Trainer of an extraction, on the processor and without any output."""
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, **settings,
    )  # fmt: skip


def _figure(what: str, turns: Turns, images: int, target: float, limit: float) -> Figure:
    """Report the rates; `limit` is that of the machine, in images per second."""
    ours, plain = (images / turns.median(way) for way in ("ours", "plain"))
    return Figure(
        what,
        f"{ours:.1f} images/s",
        f"{plain:.1f} images/s",
        turns.ratio("plain"),
        target,
        limit=f"{ours / limit:.0%} of a matrix product's rate",
    )


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "src.clip.weights"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices")
    warnings.filterwarnings("ignore", message=".*does not have many workers")
