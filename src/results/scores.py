"""Computes the metrics, batch by batch: those of torchmetrics, and those that it does not have."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torchmetrics import MeanMetric, classification

from src.results.metrics import METRICS, Metric
from src.results.outcome import class_accuracy


def __getattr__(name: str) -> Any:
    """Find in torchmetrics what is not defined here, so that `Metric.make` needs one module."""
    return getattr(classification, name)


def make_metrics(n_classes: int) -> "Scores":
    """Make a module that computes all `METRICS` of a test."""
    return Scores(METRICS, n_classes)


class Scores(nn.Module):
    """The metrics of a list, updated together."""

    def __init__(self, metrics: Sequence[Metric], n_classes: int) -> None:
        super().__init__()
        self.metrics = metrics
        here = sys.modules[__name__]
        self.parts: Any = nn.ModuleDict(
            {one.name: one.make(here, n_classes) for one in metrics if one.make is not None}
        )

    def update(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> None:
        """Take in one batch: float32 logits, int64 labels."""
        given = {"logits": logits, "probabilities": logits.softmax(dim=-1)}
        for one in self.metrics:
            self.parts[one.name].update(given[one.reads], label)

    def compute(self) -> dict[str, float]:
        """Compute every metric over all batches, scaled, by name and in the order of the list."""
        return {one.name: one.scale * float(self.parts[one.name].compute()) for one in self.metrics}

    def reset(self) -> None:
        """Forget all batches."""
        for part in self.parts.values():
            part.reset()


class MeanClassAccuracy(classification.MulticlassConfusionMatrix):
    """The accuracy on each class's images, averaged over the classes that have any; 0 to 1."""

    def compute(self) -> Any:
        accuracy = class_accuracy(super().compute().numpy(force=True))
        return np.nanmean(accuracy)


class NegativeLogLikelihood(MeanMetric):
    """The mean negative logarithm of the true class's probability, in nats.

    It is computed from logits: a float32 probability is 0 where a logit is 104 below the largest.
    """

    def update(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> None:  # type: ignore[override]
        super().update(cross_entropy(logits, label, reduction="none"))


class BrierScore(MeanMetric):
    """The squared error of the probabilities, summed over the classes (Brier, 1950); 0 to 2."""

    def update(self, probabilities: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> None:  # type: ignore[override]
        truth = one_hot(label, probabilities.shape[1])
        super().update((probabilities - truth).square().sum(dim=1))
