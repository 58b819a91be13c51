"""Images as batches for CLIP: decoded and preprocessed, shard by shard."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.clip.crops import Crop
from src.data.images import DamagedImageError, ImageDataset, Item
from src.data.point_clouds import DamagedCloudError
from src.errors import UserError

SKIPPED = -1
"""Label of an image that could not be decoded; its row stays in the store, so that the size of each
shard is known in advance, and is left out where features are read."""
BLACK = Image.new("RGB", (1, 1))
"""What is encoded in place of an image that cannot be decoded."""


class ImageBatches(Dataset[dict[str, Any] | UserError]):
    """Decoded and preprocessed images, one batch per item.

    A batch is `images` `[n, ...]`, as the transform makes them, `label` int64 `[n]` and its
    `shard`. If an image cannot be read, the item is the `UserError` that says so: if it were raised
    here, inside a loader's worker process, the message would be hidden by the worker's traceback.
    Where there is a `blank`, it stands for an image that cannot be decoded, whose label is
    `SKIPPED`.

    The image that was opened last is kept: where the crops of an image follow each other, it is
    decoded once for all of them, in as far as one process makes them.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        crops: Sequence[Crop],
        transform: Callable[[Any, Crop], Tensor],
        batches: Sequence[tuple[int, range]],
        blank: Any,
    ) -> None:
        self.dataset, self.crops, self.transform, self.batches = dataset, crops, transform, batches
        self.blank = blank
        self._last: tuple[Item, Any, int] | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any] | UserError:
        shard, rows = self.batches[index]
        try:
            looks = [self._look(crop) for crop in self.crops[rows.start : rows.stop]]
        except UserError as error:
            return error
        images, label = zip(*looks, strict=True)
        return {"shard": shard, "images": torch.stack(images), "label": torch.tensor(label)}

    def _look(self, crop: Crop) -> tuple[Tensor, int]:
        if self._last is None or self._last[0] != crop.item:
            self._last = None  # Two large images need not be in memory at once.
            self._last = (crop.item, *self._open(crop.item))
        _, image, label = self._last
        return self.transform(image, crop), label

    def _open(self, item: Item) -> tuple[Any, int]:
        try:
            return self.dataset.load(item), item.label
        except (DamagedImageError, DamagedCloudError):
            if self.blank is None:
                raise
            return self.blank, SKIPPED


class ListedBatches(LightningDataModule):
    """Batches of images for a predict loop, each of which is given by a number and its rows."""

    def __init__(
        self,
        dataset: ImageDataset,
        crops: Sequence[Crop],
        transform: Callable[[Any, Crop], Tensor],
        blank: Any,
        batches: Sequence[tuple[int, range]],
        processes: int = 1,
    ) -> None:
        """List what to decode; `processes` is how many share the processors of this machine."""
        super().__init__()
        self.dataset, self.crops, self.transform = dataset, crops, transform
        self.blank, self.batches, self.processes = blank, batches, processes

    def predict_dataloader(self) -> DataLoader[dict[str, Any] | UserError]:
        images = ImageBatches(self.dataset, self.crops, self.transform, self.batches, self.blank)
        # A worker takes longer to start than a few batches take to decode.
        processors = (os.cpu_count() or 1) // self.processes
        workers = min(max(1, processors), len(self.batches) // 4)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        # joblib's processes have its own start method as default, and torch cannot use that one.
        start = multiprocessing.get_all_start_methods()[0] if workers else None
        return DataLoader(
            images,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=start,
            worker_init_fn=_hush,
            pin_memory=on_gpu,  # Lightning then copies a batch while the one before is encoded.
        )

    def on_before_batch_transfer(self, batch: Any, _: int) -> Any:
        if isinstance(batch, UserError):
            raise batch
        return batch


def _hush(_: int) -> None:
    """Keep a worker's helper thread from complaining that a run which was ended reads no more."""
    sys.excepthook = _unless_the_reader_is_gone


def _unless_the_reader_is_gone(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
