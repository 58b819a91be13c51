"""Features as batches for a method."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from jaxtyping import Int
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from src.features.passes import Passes

Drawing = Literal["images", "pooled", "whole"]
"""How the batches of a training are drawn. `images`: shuffled, in each epoch the next crop of every
image. `pooled`: every crop is a sample of its own, and an epoch has as many batches as with
`images`, from a fresh shuffle of all crops. `whole`: all images at once, in each epoch the next
crop of every image."""
DRAWINGS: tuple[str, ...] = get_args(Drawing)
READ_AT_ONCE = 64
"""Rows that are read together where only some of their tensors are kept: few enough to lie in one
or two shards."""


class Features(Protocol):
    """Rows of a split: tensors by name, and `label` int64 `[n]` where labels are known.

    The rows may lie on disk, in memory, or be computed when they are asked for.
    """

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> dict[str, Tensor]:
        """Read rows `start` to `stop` (exclusive) of every tensor, by name."""


class ChosenRows:
    """Some rows of `features`, in a chosen order; `Features` itself."""

    def __init__(self, features: Features, chosen: Int[Tensor, " n"]) -> None:
        self._features, self._chosen = features, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def rows(self, start: int, stop: int) -> dict[str, Tensor]:
        chosen = self._chosen[start:stop]
        # Neighbours are read together: most often all but a few rows are chosen, in order.
        ends = (chosen.diff() != 1).nonzero().flatten() + 1
        pieces = [
            self._features.rows(int(run[0]), int(run[-1]) + 1)
            for run in torch.tensor_split(chosen, ends)
        ]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


class FeatureBatches(Dataset[dict[str, Tensor]]):
    """Consecutive rows, one batch per item: `inputs` in float32, `row`, and `label` if known."""

    def __init__(self, features: Features, inputs: Sequence[str], batch_size: int) -> None:
        self.features, self.inputs, self.batch_size = features, inputs, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.features) / self.batch_size)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = index * self.batch_size
        stop = min(start + self.batch_size, len(self.features))
        rows = self.features.rows(start, stop)
        return _batch(rows, self.inputs) | {"row": torch.arange(start, stop)}


class PassBatches(Dataset[dict[str, Tensor]]):
    """Passes over features, one batch per item: as of `FeatureBatches`, and `pass`, its number.

    The features lie in memory, for the rows of a pass may be anywhere.
    """

    def __init__(self, features: Features, inputs: Sequence[str], passes: Passes) -> None:
        self.features, self.inputs = in_memory(features, [*inputs, "label"]), inputs
        self.batches = [
            (number, rows)
            for number, of_pass in enumerate(passes.rows)
            for rows in torch.split(of_pass, passes.batch_size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, rows = self.batches[index]
        found = {name: tensor[rows] for name, tensor in self.features.items()}
        return _batch(found, self.inputs) | {"row": rows, "pass": torch.tensor(number)}


def in_memory(features: Features, names: Sequence[str]) -> dict[str, Tensor]:
    """Read all rows of some tensors, as they are stored; others are left where they lie."""
    pieces: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(features), READ_AT_ONCE):
        rows = features.rows(start, min(start + READ_AT_ONCE, len(features)))
        for name in names:
            if name in rows:
                pieces[name].append(rows[name].clone())
    return {name: torch.cat(rows) for name, rows in pieces.items() if rows}


def _batch(rows: dict[str, Tensor], inputs: Sequence[str]) -> dict[str, Tensor]:
    batch = {name: rows[name].to(torch.float32) for name in inputs}
    return batch | ({"label": rows["label"]} if "label" in rows else {})


class SupportBatches(Dataset[dict[str, Tensor]]):
    """The support set in shuffled batches.

    An item is addressed by (crop, rows of the support set), as `ShuffledCrops` draws them, or by
    (a crop for each row, rows), as `PooledCrops` does.
    """

    def __init__(
        self, features: dict[str, Tensor], label: Int[Tensor, " n"], inputs: Sequence[str]
    ) -> None:
        self.features, self.label, self.inputs = features, label, inputs

    @property
    def crops(self) -> int:
        return len(self.features[self.inputs[0]])

    def __getitem__(
        self, address: tuple[int | Int[Tensor, " b"], Int[Tensor, " b"]]
    ) -> dict[str, Tensor]:
        crop, rows = address
        batch = {name: self.features[name][crop, rows].to(torch.float32) for name in self.inputs}
        return batch | {"label": self.label[rows]}


class ShuffledCrops(Sampler[tuple[int, Tensor]]):
    """Addresses for `SupportBatches`; the order in epoch n depends only on the seed and n.

    After the last crop, the first one comes again.
    """

    def __init__(
        self, crops: int, rows: int, batch_size: int, seed: int, drop_last: bool = False
    ) -> None:
        """Say what there is to draw from.

        Args:
            crops: crops of each image.
            rows: images.
            batch_size: images per batch.
            seed: decides the order.
            drop_last: leave a last, smaller batch out, if there is a whole one; the images that it
                would hold differ from epoch to epoch.
        """
        self.crops, self.batch_size, self.seed = crops, batch_size, seed
        self.rows = rows
        self.used = rows - rows % batch_size if drop_last and rows >= batch_size else rows
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.used / self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.rows, generator=generator)
        crop = self.epoch % self.crops
        self.epoch += 1
        return ((crop, rows) for rows in torch.split(order[: self.used], self.batch_size))


class PooledCrops(Sampler[tuple[Tensor, Tensor]]):
    """Addresses for `SupportBatches` in which every crop is a sample of its own.

    An epoch has as many batches as that of `ShuffledCrops`, all of them full if there are enough
    crops, and sees the first samples of a fresh shuffle: which ones differs from epoch to epoch.
    """

    def __init__(
        self, crops: int, rows: int, batch_size: int, seed: int, drop_last: bool = False
    ) -> None:
        """Say what there is to draw from, as to `ShuffledCrops`."""
        self.crops, self.rows, self.batch_size, self.seed = crops, rows, batch_size, seed
        self.batches = len(ShuffledCrops(crops, rows, batch_size, seed, drop_last))
        self.epoch = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.crops * self.rows, generator=generator)
        self.epoch += 1
        batches = torch.split(order[: self.batches * self.batch_size], self.batch_size)
        return ((batch // self.rows, batch % self.rows) for batch in batches)


class WholeCrops(Dataset[dict[str, Tensor]]):
    """Item n is crop n of every image of the support set, in the order of the images.

    The features are converted to float32 and moved to the device once, not in every step.
    """

    def __init__(self, support: SupportBatches, device: torch.device) -> None:
        self.features = {
            name: support.features[name].to(device, torch.float32) for name in support.inputs
        }
        self.label = support.label.to(device)

    def __getitem__(self, crop: int) -> dict[str, Tensor]:
        return {name: tensor[crop] for name, tensor in self.features.items()} | {
            "label": self.label
        }


class NextCrop(Sampler[int]):
    """In each epoch the number of the next crop; after the last one, the first comes again."""

    def __init__(self, crops: int) -> None:
        self.crops, self.epoch = crops, 0

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter([(self.epoch - 1) % self.crops])


class FeatureDataModule(LightningDataModule):
    """Loaders of features for the things that a method does with them.

    Attributes:
        test_passes: how a test shows the rows; None: once, in the order of the split. For methods
            that see more of the unlabelled test images than one at a time, and for small tasks.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        batch_size: int,
        test: Features,
        validation: Features | None = None,
        train: SupportBatches | None = None,
        train_batch_size: int = 1,
        drop_last: bool = False,
        seed: int = 0,
        test_passes: Passes | None = None,
        drawing: Drawing = "images",
    ) -> None:
        """Take the features apart into what is tested, selected and trained on.

        Args:
            inputs: the features that the method's head takes.
            batch_size: rows per step of testing and validating.
            test: the test split.
            validation: labelled images that settings may be chosen on.
            train: the support set, for methods that train by gradient.
            train_batch_size: rows per step of training.
            drop_last: leave a last, smaller batch of training out, as `ShuffledCrops` does.
            seed: decides the order of training.
            test_passes: see the attribute.
            drawing: how batches of training are drawn; `whole` needs no `train_batch_size`.
        """
        super().__init__()
        self.inputs, self.rows_per_batch = inputs, batch_size
        self.test, self.validation, self.train = test, validation, train
        self.train_rows_per_batch, self.drop_last = train_batch_size, drop_last
        self.seed, self.test_passes, self.drawing = seed, test_passes, drawing

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        assert self.train is not None
        if self.drawing == "whole":
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            whole = WholeCrops(self.train, device)
            return DataLoader(whole, batch_size=None, sampler=NextCrop(self.train.crops))
        sampler = PooledCrops if self.drawing == "pooled" else ShuffledCrops
        order = sampler(
            self.train.crops,
            len(self.train.label),
            self.train_rows_per_batch,
            self.seed,
            self.drop_last,
        )
        return DataLoader(self.train, batch_size=None, sampler=order)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        return [] if self.validation is None else self._loader(self.validation)

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        if self.test_passes is None:
            return self._loader(self.test)
        shown = PassBatches(self.test, self.inputs, self.test_passes)
        return DataLoader(shown, batch_size=None)

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader(self.test)

    def _loader(self, features: Features) -> DataLoader[dict[str, Tensor]]:
        batches = FeatureBatches(features, self.inputs, self.rows_per_batch)
        return DataLoader(batches, batch_size=None)
