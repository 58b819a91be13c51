"""Running the frozen CLIP over images once: a Lightning predict loop that writes shards."""

from collections.abc import Callable, Collection, Sequence
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
from src.features.image_batches import PendingBatches
from src.store.writer import EntryWriter


class Encoder(LightningModule):
    """CLIP's image tower as a predict step.

    The tower is folded, and on a processor its weights are laid out with the channels last: RN50 in
    float32 then runs 1.7 times as fast.
    """

    def __init__(self, clip: FrozenClip, names: Collection[str]) -> None:
        """Compute the features called `names` with `clip`, which is changed in place."""
        super().__init__()
        fold(clip.model.visual)
        self.clip, self.names = clip, names

    def setup(self, stage: str) -> None:
        if self.trainer.strategy.root_device.type == "cpu":  # It was measured on processors only.
            self.clip.to(memory_format=torch.channels_last)

    def predict_step(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        features = self.clip.encode(batch["images"], self.names)
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
    """Collects batches until their shard is complete, then gives it to the store."""

    def __init__(self, writer: EntryWriter) -> None:
        super().__init__(write_interval="batch")
        self.writer = writer
        self._batches: list[dict[str, Tensor]] = []

    def write_on_batch_end(
        self, _: Trainer, __: LightningModule, prediction: dict[str, Any], *___: Any
    ) -> None:
        self._batches.append(prediction["tensors"])
        shard = prediction["shard"]
        if sum(len(batch["label"]) for batch in self._batches) == len(self.writer.rows_of(shard)):
            names = self._batches[0]
            self.writer.write(
                shard, {name: torch.cat([batch[name] for batch in self._batches]) for name in names}
            )
            self._batches = []


def extract(
    dataset: ImageDataset,
    crops: Sequence[Crop],
    augmentation: AnyAugmentation | None,
    clip: FrozenClip,
    names: Collection[str],
    writer: EntryWriter,
    batch_size: int,
    trainer: Callable[..., Trainer],
    skip_damaged: bool = False,
) -> None:
    """Fill every pending shard of `writer` with float16 features of `crops`.

    Args:
        dataset: opens the images.
        crops: one for each row of the entry.
        augmentation: how the numbered crops are drawn.
        clip: computes the features; it is changed in place.
        names: which features to keep.
        writer: the entry's writer, whose lock is held.
        batch_size: images per forward pass.
        trainer: makes the Trainer that runs the loop, given further `callbacks`.
        skip_damaged: mark the rows of images that cannot be decoded by the label `SKIPPED`.

    Raises:
        UserError: an image is missing or, without `skip_damaged`, cannot be decoded; or a feature
            is not finite.
    """
    transform = clip.transform(augmentation)
    data = PendingBatches(dataset, crops, transform, writer, batch_size, skip_damaged)
    runner = trainer(callbacks=[ShardWriter(writer)])
    runner.predict(Encoder(clip, names), datamodule=data, return_predictions=False)
    writer.wait()
    runner.strategy.barrier()
    if runner.is_global_zero:
        writer.finish()
    runner.strategy.barrier()
