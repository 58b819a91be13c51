"""What every method does with the validation and the test split."""

from collections.abc import Mapping, Sequence
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

from src.methods.search import Search, Surface, ViewSearch

CALIBRATION_BINS = 15

Batch = Mapping[str, Tensor]
"""`global` `[n, d]`, `spatial` `[n, s, d]` where the head needs it, `label` int64 `[n]`."""


class Method(LightningModule):
    """Searches a head's settings and tests it; all that a method without gradient does.

    `trainer.validate` makes the next of the `searches`, puts the best settings into the head and
    logs `validation_accuracy` (per cent). `surface` is what a search over two settings saw.

    `trainer.test` logs, in per cent but for `ece` (0 to 1): `accuracy` (top-1),
    `mean_class_accuracy` (over the classes that the split holds) and `ece` (expected calibration
    error, Guo et al., ICML 2017, 15 bins). Afterwards `outcome` holds, in the split's order,
    `label` and `prediction` int64 `[n]` and `confidence` float32 `[n]`, its softmax probability,
    and with `keep_predictions`, `predictions` holds `logits` `[n, c]` float32 and `label`.
    """

    head: Any  # a module of src.heads: `inputs`, and features in that order to logits

    def __init__(
        self,
        head: nn.Module,
        n_classes: int,
        keep_predictions: bool = False,
        searches: Sequence[Search | ViewSearch] = (),
    ) -> None:
        super().__init__()
        self.head = head
        self.keep_predictions = keep_predictions
        self.searches = list(searches)
        self.surface: Surface | None = None
        self.outcome: dict[str, Tensor] = {}
        self.predictions: dict[str, Tensor] = {}
        self.checkpoint_extra: dict[str, Any] = {}
        self._answers: list[dict[str, Tensor]] = []
        self._logits: list[Tensor] = []
        self.metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(n_classes, average="micro"),
                "ece": MulticlassCalibrationError(n_classes, n_bins=CALIBRATION_BINS),
                "confusion": MulticlassConfusionMatrix(n_classes),
            },
            compute_groups=False,
        )

    def setting(self, name: str) -> Any:
        """Read a setting of the head, or of the head within it that is shown each view."""
        return getattr(self._owner(name), name)

    def set(self, name: str, value: Any) -> None:
        """Change a setting, wherever `setting` finds it."""
        setattr(self._owner(name), name, value)

    def _owner(self, name: str) -> nn.Module:
        head: nn.Module = self.head
        return next((module for module in head.modules() if hasattr(module, name)), head)

    def trainable_parameters(self) -> int:
        """Count the numbers that training changes."""
        return 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.checkpoint_extra)

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

    def validation_step(self, batch: Batch, _: int) -> None:
        self.searches[0].add(self.head, self.features(batch), batch["label"])

    def on_validation_epoch_end(self) -> None:
        search = self.searches.pop(0)
        choice = search.best()
        if isinstance(search, Search):
            self.surface = search.surface()
        for setting, value in choice.settings.items():
            self.set(setting, value)
        self.log("validation_accuracy", choice.accuracy)

    def test_step(self, batch: Batch, _: int) -> None:
        logits = self(batch)
        probabilities = logits.softmax(dim=-1)
        self.metrics.update(probabilities, batch["label"])
        confidence, prediction = probabilities.max(dim=-1)
        answers = {
            "label": batch["label"],
            "prediction": prediction,
            "confidence": confidence.float(),
        }
        self._answers.append({name: values.cpu() for name, values in answers.items()})
        if self.keep_predictions:
            self._logits.append(logits.float().cpu())

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
        names = self._answers[0]
        self.outcome = {name: torch.cat([each[name] for each in self._answers]) for name in names}
        if self.keep_predictions:
            label = self.outcome["label"]
            self.predictions = {"logits": torch.cat(self._logits), "label": label}
        self._answers, self._logits = [], []
