"""Extraction beside the usual loop of open_clip: float32, a DataLoader with workers, no_grad.

Measured in the precision that `auto` chooses on this processor, and once more in a process whose
units for bfloat16 are switched off. The weights are random, which changes nothing in speed; a
ResNet's statistics are those of the images, so that its activations have a trained model's size.

The shares say where the time of an image goes: the stages one after the other by one thread, in
processor time, which other work on the machine changes little.
"""

import logging
import multiprocessing
import os
import resource
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from torchvision.transforms.functional import pil_to_tensor

from benchmarks import machine
from benchmarks.side_by_side import Figure, Turns, take_turns
from src.clip.folding import fold
from src.clip.model import FrozenClip
from src.clip.precision import AUTO, BFLOAT16, FLOAT32, has_bfloat16_units, resolve
from src.data.digits import read
from src.data.images import ImageDataset, ImageFiles, Item
from src.data.prompts import make_prompts
from src.features.extract import Encoder, extract
from src.features.parts import AT_A_TIME
from src.features.plan import crop_by_crop
from src.store.store import FeatureStore

MODELS = ("RN50-quickgelu", "ViT-B-32-quickgelu")
TARGETS = {
    "amx_bf16": {"RN50-quickgelu": (2.5, 2.0), "ViT-B-32-quickgelu": (2.3, 1.5)},
    "avx512_bf16": {"RN50-quickgelu": (2.5, 2.0), "ViT-B-32-quickgelu": (2.3, 1.5)},
    "no units": dict.fromkeys(MODELS, (1.0, 1.0)),
}
"""By the processor's units for bfloat16: how many times the usual loop's rate ours is to be, for
encoding only, and with decoding and resizing. AVX-512 BF16 doubles the rate of a product in
float32, AMX does more; without either, `auto` chooses float32, and ours is never to be slower."""
TINY = "local-dir:src/clip/tiny"
PHOTOGRAPHS = Path(__file__).parents[2] / "shared/dtd/images"
ENCODED, DECODED, BATCH = 64, 128, 32
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
        for architecture in MODELS:
            clip = _calibrated(FrozenClip.load(architecture, None), dataset)
            goals = TARGETS[units(precision)][architecture]
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
            yield from shares(clip, precision, dataset, model)


def units(precision: str) -> str:
    """Name what multiplies: a key of `TARGETS`."""
    return machine.bfloat16_units()[-1] if precision == BFLOAT16 else "no units"


def shares(clip: FrozenClip, precision: str, dataset: ImageFiles, model: str) -> Iterator[Figure]:
    """Tell what an image costs in each stage, and what the stages leave of the machine's limit.

    Args:
        clip: the backbone; it is changed in place.
        precision: Lightning's name of what it computes in.
        dataset: the photographs.
        model: what it is called in the table.
    """
    dtype = torch.bfloat16 if precision == BFLOAT16 else torch.float32
    count, threads = operations(clip), torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = (torch.randn(machine.MATRIX, machine.MATRIX).to(dtype) for _ in range(2))
    products = count / (2 * machine.MATRIX**3) * _processor_time(lambda: a @ b)
    seconds = stages(clip, dtype, dataset)
    torch.set_num_threads(threads)
    whole = sum(seconds.values())
    for stage, one in seconds.items():
        yield Figure(
            f"share of {stage}, {model}", f"{1000 * one:.2f} ms an image", "", one / whole, None
        )
    yield Figure(
        f"the bare products' share of all stages, the most that extraction can reach, {model}",
        f"{1000 * products:.2f} ms an image", "", products / whole, None,
    )  # fmt: skip


def stages(clip: FrozenClip, dtype: torch.dtype, dataset: ImageFiles) -> dict[str, float]:
    """Measure the processor time of an image in each stage of an extraction, by this thread."""
    items = dataset.splits["test"][:BATCH]
    fold(clip.model.visual)
    clip.to(dtype).to(memory_format=torch.channels_last)
    opened = [dataset.load(item) for item in items]
    cropped = [_cropped(clip, image) for image in opened]
    pixels = torch.stack([pil_to_tensor(image) for image in cropped])
    prepared = torch.split(clip.normalise(pixels), AT_A_TIME)
    features = torch.cat([clip.encode_image(part) for part in prepared]).half()
    ways: dict[str, Callable[[], object]] = {
        "decoding": lambda: [dataset.load(item) for item in items],
        "resizing and cropping": lambda: [_cropped(clip, image) for image in opened],
        "making and normalising tensors": lambda: clip.normalise(
            torch.stack([pil_to_tensor(image) for image in cropped])
        ),
        "encoding": lambda: [clip.encode_image(part) for part in prepared],
        "writing": lambda: _written(features),
    }
    found = {stage: _processor_time(way) / BATCH for stage, way in ways.items()}
    found["the hand-over between processes"] = _handed_over(pixels)
    return found


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


class _Copies(_Batches):
    """As a worker makes a batch: in new memory."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self.batches[index]
        return batch | {"images": batch["images"].clone()}


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
    made: Callable[..., Trainer] | None = None,
) -> Float[Tensor, "n d"]:
    """Extract as a run does, and return the global features as they are stored.

    `made` makes the Trainer, if not one on the processor.
    """
    store, key = FeatureStore(folder), {"dataset": "d", "split": "test", "backbone": "b"}
    runner = partial(made or trainer, precision=precision)
    plan = crop_by_crop(items, None, batch_size)
    with store.writing(key, len(items), plan.rows_per_shard) as writer:
        extract(dataset, plan, ["global"], writer, lambda: clip, runner)
    entry = store.open(key)
    assert entry is not None
    return entry.tensor("global").float()


def _cropped(clip: FrozenClip, image: Image.Image) -> Any:
    for transform in clip.preprocess.transforms[:-2]:
        image = transform(image)
    return image


def _written(features: Float[Tensor, "n d"]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        key = {"dataset": "d", "split": "test", "backbone": "b"}
        with FeatureStore(Path(folder)).writing(key, len(features), len(features)) as writer:
            writer.write(0, {"global": features, "label": torch.zeros(len(features))})
            writer.finish()


def _handed_over(pixels: Tensor) -> float:
    """Measure the processor time of an image on its way from a worker, without its start."""

    def read(count: int) -> None:
        batches = [{"shard": 0, "images": pixels}] * count
        loader = DataLoader(_Copies(batches), batch_size=None, num_workers=1)
        assert all(int(batch["images"][..., -1, -1].sum()) >= 0 for batch in loader)

    few, many = (_processor_time(partial(read, count)) for count in (4, 36))
    return (many - few) / 32 / len(pixels)


def _processor_time(work: Callable[[], object]) -> float:
    """Give the median of several rounds, in seconds of this process and those it waited for."""
    work()
    found = []
    for _ in range(ROUNDS):
        began = _spent()
        work()
        found.append(_spent() - began)
    return statistics.median(found)


def _spent() -> float:
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(one.ru_utime + one.ru_stime for one in both)


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
    """Make the Trainer of an extraction, on the processor if not told, and without any output."""
    return Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
        **{"accelerator": "cpu"} | settings,
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
