"""How large missing features will be and how long they take, by a probe of this machine."""

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.accelerators import CPUAccelerator
from torch import Tensor
from torch.utils.data import DataLoader

from src.clip.model import FrozenClip
from src.errors import UserError
from src.features.extract import Encoder
from src.features.image_batches import ImageBatches
from src.features.plan import Plan
from src.job.planned import Need, Planned

SECONDS = 10.0
"""How long all measurements take together, about, beside loading models."""
FIRST, CHUNK, PROMPTS = 4, 32, 256
"""How many images or prompts warm a model up; how many neighbouring images are decoded at once;
and how many prompts are encoded at most."""
BATCHES_PER_WORKER = 4
"""As `src.features.image_batches` has it: of fewer batches, none is decoded beside the encoding."""
GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, are spread evenly however many are taken."""

Kind = tuple[Any, ...]


class Probe:
    """Measures what some missing entries need, and says what each of them takes.

    Attributes:
        needs: the entries.
        without_weights: backbones that were measured with random weights.
    """

    def __init__(self, needs: Sequence[Need]) -> None:
        self.needs = needs
        self.without_weights: set[str] = set()
        self._seconds: dict[Kind, float] = {}
        self._shapes: dict[Kind, dict[str, Sequence[int]]] = defaultdict(dict)
        self._on_processor: dict[Kind, bool] = {}
        for need in needs:
            if need.plan is None and not need.is_text:
                tensors = need.entry.manifest["tensors"]
                self._shapes[_model(need)] |= {name: tensors[name]["shape"] for name in tensors}
        missing = [need for need in needs if need.missing]
        kinds = {kind for need in missing for kind in _kinds(need)}
        self._share = SECONDS / max(1, len(kinds))
        for model in dict.fromkeys(map(_model, missing)):
            self._measure(model, [need for need in missing if _model(need) == model])

    def bytes(self, need: Need) -> int:
        """Say how much of an entry is still to be stored."""
        return need.bytes_missing(self._shapes[_model(need)])

    def bytes_by_store(self) -> dict[Path, int]:
        """Say how much is to be stored in each store, if anything is."""
        found: dict[Path, int] = defaultdict(int)
        for need in self.needs:
            if need.missing:
                found[need.source.root] += self.bytes(need)
        return dict(found)

    def seconds(self, need: Need) -> float:
        """Say how long an entry still takes, without the loading of the model."""
        if not need.missing:
            return 0.0
        if need.plan is None:
            return need.to_encode * self._seconds[_kinds(need)[0]]
        decoding, encoding = (self._seconds[kind] * need.missing for kind in _kinds(need))
        batches = math.ceil(need.missing / need.plan.rows_per_batch)
        workers = min(os.cpu_count() or 1, batches // BATCHES_PER_WORKER)
        if self._on_processor[_model(need)]:  # which decodes as well
            return decoding / max(1, workers) + encoding
        encoding /= min(need.source.processes, batches)
        return max(decoding / workers, encoding) if workers else decoding + encoding

    def _measure(self, model: Kind, needs: Sequence[Need]) -> None:
        source = needs[0].source
        clip, here = source.backbone()
        if not here:
            self.without_weights.add(str(needs[0].key["backbone"]))
        texts = [need for need in needs if need.plan is None]
        if texts:  # before the model is converted to the precision of images
            prompts = max((need.source.prompts for need in texts), key=len)
            self._seconds[_kinds(texts[0])[0]] = self._time_text(clip, prompts)
            self._shapes[model].setdefault("global", [clip.encode_prompts([prompts[:1]]).shape[1]])
        looks: dict[Kind, Tensor] = {}
        images = [(need, need.plan) for need in needs if need.plan is not None]
        for need, plan in images:
            decoding, encoding = _kinds(need)
            if decoding not in self._seconds:
                transform = clip.pixels(plan.augmentation)
                self._seconds[decoding], look = self._time_decoding(need.source, plan, transform)
                looks.setdefault(encoding, look)
        encoder = Encoder(clip, ())
        for need, plan in images:
            _, encoding = _kinds(need)
            if encoding not in self._seconds:
                encoder.names = need.key["features"]
                look = looks.get(encoding, next(iter(looks.values())))
                rows = min(plan.rows_per_batch, need.missing)
                self._seconds[encoding] = self._time_encoding(model, source, encoder, look, rows)

    def _time_text(self, clip: FrozenClip, prompts: Sequence[str]) -> float:
        """Measure the seconds that a prompt takes."""

        def encode(count: int) -> float:
            chosen = [prompts[index * len(prompts) // count] for index in range(count)]
            start = time.perf_counter()
            clip.encode_prompts([chosen])
            return time.perf_counter() - start

        few = min(FIRST, len(prompts))
        encode(few)
        return _per_one(encode, few, min(PROMPTS, len(prompts)), self._share)

    def _time_decoding(
        self, source: Planned, plan: Plan, transform: Callable[..., Tensor]
    ) -> tuple[float, Tensor]:
        """Measure the seconds that decoding an image takes in one process; also give some."""
        rows = len(plan.crops)
        size = min(CHUNK, rows)
        starts = [int(GOLDEN * number % 1 * (rows - size + 1)) for number in range(rows // size)]
        batches = [(0, range(start, start + size)) for start in starts]
        images = ImageBatches(source.images, plan.crops, transform, batches, source.blank)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a worker has
        start, done = time.perf_counter(), 0
        try:
            for index in range(len(batches)):
                found = images[index]
                if isinstance(found, UserError):
                    raise found
                batch: Tensor = found["images"]
                done += size
                if time.perf_counter() - start > self._share:
                    break
        finally:
            torch.set_num_threads(threads)
        return (time.perf_counter() - start) / done, batch

    def _time_encoding(
        self, model: Kind, source: Planned, encoder: Encoder, images: Tensor, rows: int
    ) -> float:
        """Measure the seconds that encoding an image takes, and learn the shapes of features."""

        def encode(count: int) -> float:
            repeated = torch.cat([images] * math.ceil(count / len(images)))[:count]
            batch = {"shard": 0, "images": repeated, "label": torch.zeros(count)}
            watch = _Watch()
            trainer = source.trainer(callbacks=[watch])
            one: Any = [batch]
            found: Any = trainer.predict(encoder, DataLoader(one, batch_size=None))
            self._on_processor[model] = isinstance(trainer.accelerator, CPUAccelerator)
            tensors: Mapping[str, Tensor] = found[0]["tensors"]
            self._shapes[model] |= {name: rows.shape[1:] for name, rows in tensors.items()}
            return watch.seconds

        few = min(FIRST, rows)
        encode(few)
        return _per_one(encode, few, rows, self._share)


class _Watch(Callback):
    """Measures how long a batch takes."""

    seconds = 0.0

    def on_predict_batch_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_predict_batch_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def _per_one(timed: Callable[[int], float], few: int, most: int, budget: float) -> float:
    """Measure as many as `budget` seconds allow, going by a few of them, and divide."""
    seconds, count = timed(few), few
    more = min(most, int(budget / seconds * few))
    if more > few:
        seconds, count = timed(more), more
    return seconds / count


def _model(need: Need) -> Kind:
    return need.key["backbone"], need.key["weights"], need.source.n_views


def _kinds(need: Need) -> tuple[Kind, ...]:
    """Name what has to be measured for an entry: the decoding and the encoding, or the text."""
    if need.plan is None:
        return (("text", *_model(need)),)
    prepared = json.dumps(need.key["preprocessing"], sort_keys=True)
    return (
        ("decoding", *_model(need), need.key["dataset"], prepared),
        ("encoding", *_model(need), *need.key["features"]),
    )
