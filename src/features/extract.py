"""Running the frozen CLIP over images once: a Lightning predict loop that writes shards."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from src.clip.crops import AnyAugmentation, Crop
from src.clip.folding import fold
from src.clip.model import FrozenClip
from src.data.images import ImageDataset
from src.errors import UserError
from src.features.image_batches import BLACK, ListedBatches
from src.features.parts import in_parts
from src.features.plan import Plan
from src.store.writer import EntryWriter

Batch = tuple[int, range]
"""The shard that a batch belongs to, and its rows, which never cross the border of a shard."""


class Encoder(LightningModule):
    """CLIP's image tower as a predict step.

    The tower is folded, and on a processor its weights are laid out with the channels last: RN50 in
    float32 then runs 1.7 times as fast. On a GPU they are so in half precision only, where NVIDIA's
    units for it read them in that order.
    """

    def __init__(self, clip: FrozenClip, names: Collection[str]) -> None:
        """Compute the features called `names` with `clip`, which is changed in place."""
        super().__init__()
        fold(clip.model.visual)
        self.clip, self.names = clip, names

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device.type
        if device == "cpu" or (device == "cuda" and "16" in str(self.trainer.precision)):
            self.clip.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the features of a batch by name; on a processor, by several threads."""
        if images.device.type == "cpu":
            return in_parts(self._part, images)
        return self.clip.encode(images, self.names)

    def _part(self, images: Tensor) -> dict[str, Tensor]:
        # Both contexts hold for one thread only.
        with self.trainer.precision_plugin.predict_step_context(), torch.inference_mode():
            return self.clip.encode(images, self.names)

    def predict_step(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        features = self.features(batch["images"])
        stored = {name: tensor.to(torch.float16).cpu() for name, tensor in features.items()}
        for name, tensor in stored.items():
            if not tensor.isfinite().all():
                raise UserError(
                    f"CLIP's {name} features of shard {batch['shard']} are not finite in float16: "
                    "the weights are damaged, or their precision is too low "
                    "(try backbone.precision=32-true)."
                )
        return {"shard": batch["shard"], "tensors": stored | {"label": batch["label"].cpu()}}


class ShardWriter(BasePredictionWriter):
    """Collects the batches of each shard that this process has, then gives them to the store."""

    def __init__(self, writer: EntryWriter, batches: Sequence[Batch]) -> None:
        super().__init__(write_interval="batch")
        self.writer = writer
        self._own: dict[int, range] = {}
        for shard, rows in batches:
            start = self._own.get(shard, rows).start
            self._own[shard] = range(start, rows.stop)
        self._batches: list[dict[str, Tensor]] = []

    def write_on_batch_end(
        self, _: Trainer, __: LightningModule, prediction: dict[str, Any], *___: Any
    ) -> None:
        self._batches.append(prediction["tensors"])
        own = self._own[prediction["shard"]]
        if sum(len(batch["label"]) for batch in self._batches) == len(own):
            names = self._batches[0]
            self.writer.write(
                prediction["shard"],
                {name: torch.cat([batch[name] for batch in self._batches]) for name in names},
                own,
            )
            self._batches = []


@dataclass(frozen=True)
class Work:
    """What there is to encode and where it goes; every process of an extraction has it.

    Attributes:
        dataset: opens the images.
        crops: one for each row of the entry.
        augmentation: how the numbered crops are drawn.
        names: which features to keep.
        writer: the entry's writer, whose lock is held.
        skip_damaged: mark the rows of images that cannot be decoded by the label `SKIPPED`.
    """

    dataset: ImageDataset
    crops: Sequence[Crop]
    augmentation: AnyAugmentation | None
    names: Collection[str]
    writer: EntryWriter
    skip_damaged: bool


def encode(
    work: Work,
    batches: Sequence[Batch],
    clip: FrozenClip,
    trainer: Callable[..., Trainer],
    processes: int = 1,
) -> None:
    """Fill the rows of `batches` with float16 features.

    Args:
        work: what the rows are of.
        batches: in the order of their rows.
        clip: computes the features; it is changed in place.
        trainer: makes the Trainer that runs the loop, given further `callbacks`.
        processes: how many share this machine.

    Raises:
        UserError: an image is missing or, without `skip_damaged`, cannot be decoded; or a feature
            is not finite.
    """
    transform = clip.pixels(work.augmentation)
    blank = BLACK if work.skip_damaged else None
    data = ListedBatches(work.dataset, work.crops, transform, blank, batches, processes)
    runner = trainer(callbacks=[ShardWriter(work.writer, batches)])
    runner.predict(Encoder(clip, work.names), datamodule=data, return_predictions=False)
    work.writer.wait()


def extract(
    dataset: ImageDataset,
    plan: Plan,
    names: Collection[str],
    writer: EntryWriter,
    load: Callable[[], FrozenClip],
    trainer: Callable[..., Trainer],
    devices: Sequence[Any] = (1,),
    skip_damaged: bool = False,
) -> None:
    """Fill every pending shard of `writer` with float16 features, and complete the entry.

    With several devices, processes share the batches out. The shards are the same, bit for bit,
    for any number of them, and so are the batches if an extraction goes on that was interrupted.

    Args:
        dataset: opens the images.
        plan: which crops, in batches of how many rows.
        names: which features to keep.
        writer: the entry's writer, whose lock is held.
        load: gives the model, which is changed in place. For several devices it is pickled.
        trainer: makes the Trainer that runs the loop, given `devices` and `callbacks`; likewise.
        devices: for each process, what Lightning calls its device. No process is without a batch.
        skip_damaged: mark the rows of images that cannot be decoded by the label `SKIPPED`.

    Raises:
        UserError: an image is missing or, without `skip_damaged`, cannot be decoded; a feature is
            not finite; or a process was killed.
    """
    batches = [
        (shard, range(start, min(start + plan.rows_per_batch, rows.stop)))
        for shard in writer.pending
        for rows in [writer.rows_of(shard)]
        for start in range(rows.start, rows.stop, plan.rows_per_batch)
    ]
    work = Work(dataset, plan.crops, plan.augmentation, names, writer, skip_damaged)
    if min(len(devices), len(batches)) > 1:
        from src.features.processes import share_out

        share_out(work, batches, load, trainer, devices[: len(batches)])
        writer.join()
    else:
        encode(work, batches, load(), trainer)
    writer.finish()
