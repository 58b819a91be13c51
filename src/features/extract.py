"""Running the frozen CLIP over images, once: a Lightning predict loop that writes shards."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.clip.crops import Augmentation, View, ViewTransform
from src.clip.folding import fold
from src.clip.model import FrozenClip
from src.data.images import DamagedImageError, ImageDataset
from src.errors import UserError
from src.features import skipped
from src.store.writer import EntryWriter


class ImageBatches(Dataset[dict[str, Any] | UserError]):
    """Decoded and preprocessed images, a batch an item.

    A batch is `images` float32 `[n, 3, h, w]`, `label` int64 `[n]` and its `shard`. An image that
    cannot be read makes its whole batch the `UserError` that says so: raised here, inside a
    loader's worker process, the message would drown in the worker's traceback. With `skip_damaged`,
    one that cannot be decoded is black instead, and its label `skipped.LABEL`.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        views: Sequence[View],
        transform: ViewTransform,
        batches: Sequence[tuple[int, range]],
        skip_damaged: bool,
    ) -> None:
        self.dataset, self.views, self.transform, self.batches = dataset, views, transform, batches
        self.skip_damaged = skip_damaged

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any] | UserError:
        shard, rows = self.batches[index]
        try:
            looks = [self._look(view) for view in self.views[rows.start : rows.stop]]
        except UserError as error:
            return error
        images, label = zip(*looks, strict=True)
        return {"shard": shard, "images": torch.stack(images), "label": torch.tensor(label)}

    def _look(self, view: View) -> tuple[Tensor, int]:
        try:
            return self.transform(self.dataset.load(view.item), view), view.item.label
        except DamagedImageError:
            if not self.skip_damaged:
                raise
            return self.transform(Image.new("RGB", (1, 1)), view), skipped.LABEL


class PendingBatches(LightningDataModule):
    """The batches of the shards that the store still lacks, shared out among the processes.

    Batches never cross a shard's border, so that an extraction that was interrupted computes the
    rest in the very same batches.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        views: Sequence[View],
        transform: ViewTransform,
        writer: EntryWriter,
        batch_size: int,
        skip_damaged: bool,
    ) -> None:
        super().__init__()
        self.dataset, self.views, self.transform = dataset, views, transform
        self.writer, self.rows_per_batch = writer, batch_size
        self.skip_damaged = skip_damaged

    def predict_dataloader(self) -> DataLoader[dict[str, Any] | UserError]:
        assert self.trainer is not None
        pending = self.trainer.strategy.broadcast(self.writer.pending)
        shards = pending[self.trainer.global_rank :: self.trainer.world_size]
        batches = [
            (shard, range(start, min(start + self.rows_per_batch, rows.stop)))
            for shard in shards
            for rows in [self.writer.rows_of(shard)]
            for start in range(rows.start, rows.stop, self.rows_per_batch)
        ]
        images = ImageBatches(self.dataset, self.views, self.transform, batches, self.skip_damaged)
        # A worker takes longer to start than a few batches take to decode.
        workers = min(os.cpu_count() or 1, len(batches) // 4)
        # joblib's processes have its own start method as default, and torch cannot use that one.
        start = multiprocessing.get_all_start_methods()[0] if workers else None
        return DataLoader(
            images, batch_size=None, num_workers=workers, multiprocessing_context=start
        )

    def on_before_batch_transfer(self, batch: Any, _: int) -> Any:
        if isinstance(batch, UserError):
            raise batch
        return batch


class Encoder(LightningModule):
    """CLIP's image tower as a predict step.

    The tower is folded, and on a processor its weights are laid out with the channels last: RN50 in
    float32 runs 1.7 times as fast.
    """

    def __init__(self, clip: FrozenClip, spatial: bool) -> None:
        super().__init__()
        fold(clip.model.visual)
        self.clip, self.spatial = clip, spatial

    def setup(self, stage: str) -> None:
        if self.trainer.strategy.root_device.type == "cpu":  # where it was measured
            self.clip.to(memory_format=torch.channels_last)

    def predict_step(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        if self.spatial:
            global_features, spatial_features = self.clip.encode_image_spatial(batch["images"])
            features = {"global": global_features, "spatial": spatial_features}
        else:
            features = {"global": self.clip.encode_image(batch["images"])}
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
    """Collects batches until their shard is whole, then hands it to the store."""

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
    views: Sequence[View],
    augmentation: Augmentation | None,
    clip: FrozenClip,
    spatial: bool,
    writer: EntryWriter,
    batch_size: int,
    trainer: Callable[..., Trainer],
    skip_damaged: bool = False,
) -> None:
    """Fill every pending shard of `writer` with float16 features of `views`.

    Args:
        dataset: opens the images.
        views: one for each row of the entry.
        augmentation: how the numbered views look.
        clip: computes the features.
        spatial: whether to keep spatial features beside the global ones.
        writer: of the entry; its lock is held.
        batch_size: images per forward pass.
        trainer: makes the Trainer that runs the loop, given further `callbacks`.
        skip_damaged: mark the rows of images that cannot be decoded by `skipped.LABEL`.

    Raises:
        UserError: an image is missing or, without `skip_damaged`, cannot be decoded; or a feature
            is not finite.
    """
    transform = ViewTransform(clip.preprocess, clip.image_size, augmentation)
    data = PendingBatches(dataset, views, transform, writer, batch_size, skip_damaged)
    runner = trainer(callbacks=[ShardWriter(writer)])
    runner.predict(Encoder(clip, spatial), datamodule=data, return_predictions=False)
    writer.wait()
    runner.strategy.barrier()
    if runner.is_global_zero:
        writer.finish()
    runner.strategy.barrier()
