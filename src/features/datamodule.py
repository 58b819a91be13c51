"""Cached features as batches for a method."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


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


class FeatureDataModule(LightningDataModule):
    """The test split, and the labelled images that a search may look at."""

    def __init__(
        self,
        inputs: Sequence[str],
        batch_size: int,
        test: Features,
        validation: Features | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.rows_per_batch = inputs, batch_size
        self.test, self.validation = test, validation

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader(self.test)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        assert self.validation is not None
        return self._loader(self.validation)

    def _loader(self, features: Features) -> DataLoader[dict[str, Tensor]]:
        batches = FeatureBatches(features, self.inputs, self.rows_per_batch)
        return DataLoader(batches, batch_size=None)
