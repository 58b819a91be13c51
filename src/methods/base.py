"""What every method does with the test split."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
)

CALIBRATION_BINS = 15

Batch = Mapping[str, Tensor]
"""`global` `[n, d]`, `spatial` `[n, s, d]` where the head needs it, `label` int64 `[n]`."""


class Method(LightningModule):
    """Tests a head: top-1 and mean class accuracy, calibration error, optionally the logits.

    `trainer.test` logs, in per cent but for `ece` (0 to 1): `accuracy` (top-1),
    `mean_class_accuracy` (over the classes that the split holds) and `ece` (expected calibration
    error, Guo et al., ICML 2017, 15 bins). With `keep_predictions`, `predictions` holds
    `logits` `[n, c]` float32 and `label` `[n]` int64 in the split's order afterwards.
    """

    head: Any  # a module of src.heads: `inputs`, and features in that order to logits

    def __init__(self, head: nn.Module, n_classes: int, keep_predictions: bool = False) -> None:
        super().__init__()
        self.head = head
        self.keep_predictions = keep_predictions
        self.predictions: dict[str, Tensor] = {}
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(n_classes, average="micro"),
                "ece": MulticlassCalibrationError(n_classes, n_bins=CALIBRATION_BINS),
                "confusion": MulticlassConfusionMatrix(n_classes),
            },
            compute_groups=False,
        )

    @property
    def inputs(self) -> list[str]:
        """The features of an image that the head takes."""
        return list(self.head.inputs)

    def features(self, batch: Batch) -> list[Tensor]:
        """Take the head's inputs out of a batch."""
        return [batch[name] for name in self.inputs]

    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        logits: Tensor = self.head(*self.features(batch))
        return logits

    def test_step(self, batch: Batch, _: int) -> None:
        logits = self(batch)
        self.metrics.update(logits.softmax(dim=-1), batch["label"])
        if self.keep_predictions:
            self._kept.append((logits.float().cpu(), batch["label"].cpu()))

    def on_test_epoch_end(self) -> None:
        measured: dict[str, Any] = self.metrics.compute()
        self.metrics.reset()
        confusion = measured.pop("confusion").double()
        images = confusion.sum(dim=1)
        present = images > 0
        per_class = confusion.diagonal()[present] / images[present]
        self.log("accuracy", 100 * measured["accuracy"])
        self.log("mean_class_accuracy", 100 * per_class.mean().float())
        self.log("ece", measured["ece"])
        if self._kept:
            logits, label = zip(*self._kept, strict=True)
            self.predictions = {"logits": torch.cat(logits), "label": torch.cat(label)}
            self._kept = []
