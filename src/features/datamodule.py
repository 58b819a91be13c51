"""Cached features as batches for a method."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Int
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class Features(Protocol):
    """Rows of features on disk or in memory: `global` `[n, d]`, `spatial` `[n, s, d]`, `label`."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> dict[str, Tensor]:
        """Read rows `start` to `stop` (exclusive) of every tensor, by name."""


class FeatureBatches(Dataset[dict[str, Tensor]]):
    """Consecutive rows, a batch an item; features in float32, whatever they are stored in."""

    def __init__(self, features: Features, inputs: Sequence[str], batch_size: int) -> None:
        self.features, self.inputs, self.batch_size = features, inputs, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.features) / self.batch_size)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = index * self.batch_size
        rows = self.features.rows(start, min(start + self.batch_size, len(self.features)))
        return {name: rows[name].to(torch.float32) for name in self.inputs} | {
            "label": rows["label"]
        }


class SupportBatches(Dataset[dict[str, Tensor]]):
    """The support set in shuffled batches, each epoch another view of every image.

    An item is addressed by (view, rows of the support set), as `ShuffledViews` draws them.
    """

    def __init__(
        self, features: dict[str, Tensor], label: Int[Tensor, " n"], inputs: Sequence[str]
    ) -> None:
        self.features, self.label, self.inputs = features, label, inputs

    @property
    def views(self) -> int:
        return len(self.features[self.inputs[0]])

    def __getitem__(self, address: tuple[int, Int[Tensor, " b"]]) -> dict[str, Tensor]:
        view, rows = address
        return {name: self.features[name][view, rows].to(torch.float32) for name in self.inputs} | {
            "label": self.label[rows]
        }


class ShuffledViews(Sampler[tuple[int, Tensor]]):
    """Addresses for `SupportBatches`; the n-th epoch's order depends on the seed and n alone."""

    def __init__(self, views: int, rows: int, batch_size: int, seed: int) -> None:
        self.views, self.rows, self.batch_size, self.seed = views, rows, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.rows, generator=generator)
        view = self.epoch % self.views
        self.epoch += 1
        return ((view, rows) for rows in torch.split(order, self.batch_size))


class FeatureDataModule(LightningDataModule):
    """Loaders of cached features for the three things a method does with them."""

    def __init__(
        self,
        inputs: Sequence[str],
        batch_size: int,
        test: Features,
        validation: Features | None = None,
        train: SupportBatches | None = None,
        train_batch_size: int = 1,
        seed: int = 0,
    ) -> None:
        """Take the features apart into what is tested, selected and trained on.

        Args:
            inputs: the features that the method's head takes.
            batch_size: rows per step of testing and validating.
            test: the test split.
            validation: labelled images that settings may be chosen on.
            train: the support set, for methods that train by gradient.
            train_batch_size: rows per step of training.
            seed: of the order of training.
        """
        super().__init__()
        self.inputs, self.rows_per_batch = inputs, batch_size
        self.test, self.validation, self.train = test, validation, train
        self.train_rows_per_batch, self.seed = train_batch_size, seed

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        assert self.train is not None
        order = ShuffledViews(
            self.train.views, len(self.train.label), self.train_rows_per_batch, self.seed
        )
        return DataLoader(self.train, batch_size=None, sampler=order)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        return [] if self.validation is None else self._loader(self.validation)

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader(self.test)

    def _loader(self, features: Features) -> DataLoader[dict[str, Tensor]]:
        batches = FeatureBatches(features, self.inputs, self.rows_per_batch)
        return DataLoader(batches, batch_size=None)
