"""The lists of metrics, which the record, the tables, the report and W&B read.

To add a metric, add a line to `METRICS`. `src.results.scores` computes them, for this module
imports no torch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

CALIBRATION_BINS = 15
"""Bins of the expected calibration error (Guo et al., ICML 2017) and of the reliability diagram."""


class Metric(NamedTuple):
    """One metric of a test.

    Attributes:
        name: its key in a record, and its column in `runs.csv`.
        heading: its heading in tables.
        make: makes what computes it, a `torchmetrics.Metric`. It is given a module, which has the
            classes of `torchmetrics.classification` and those of `src.results.scores`, and the
            number of classes. None for those of `OF_SETS`, which need all images at once, of
            `OF_CLASSES`, which are of two tests, and of `OF_PASSES`, which are of several passes.
        format: its format specification in tables.
        scale: what the computed value is multiplied by: 100 for per cent.
        reads: what it is updated with beside the labels: `probabilities` or `logits`, `[n, c]`.
    """

    name: str
    heading: str
    make: Callable[[Any, int], Any] | None
    format: str = ".2f"
    scale: float = 100
    reads: str = "probabilities"

    def text(self, value: float | None) -> str:
        """Format a value for a table; one that a record lacks is blank."""
        return "" if value is None or math.isnan(value) else format(value, self.format)

    @property
    def unit(self) -> str:
        """What stands behind the value outside a table, where no heading or title says it."""
        return " %" if self.scale == 100 else ""


METRICS: Sequence[Metric] = (
    Metric("accuracy", "accuracy", lambda m, n: m.MulticlassAccuracy(n, average="micro")),
    # Over the classes that the split holds.
    Metric("mean_class_accuracy", "class mean", lambda m, n: m.MeanClassAccuracy(n)),
    # Over the classes that are in the split or among the predictions.
    Metric("macro_f1", "macro F1", lambda m, n: m.MulticlassF1Score(n, average="macro")),
    Metric("top5_accuracy", "top-5", lambda m, n: m.MulticlassAccuracy(n, min(5, n), "micro")),
    # From 0 to 1.
    Metric("ece", "ECE", lambda m, n: m.MulticlassCalibrationError(n, CALIBRATION_BINS), ".3f", 1),
    # The mean over the images, in nats.
    Metric("nll", "NLL", lambda m, _: m.NegativeLogLikelihood(), ".3f", 1, "logits"),
    # The squared error of the probabilities, summed over the classes: from 0 to 2.
    Metric("brier", "Brier", lambda m, _: m.BrierScore(), ".3f", 1),
)
"""What every test finds."""

OF_SETS: Sequence[Metric] = (
    Metric("coverage", "coverage", None),
    # In classes.
    Metric("mean_set_size", "set size", None, scale=1),
    # In points of per cent.
    Metric("class_coverage_gap", "coverage gap", None),
)
"""What `src.results.conformal` finds where a run makes sets of classes."""

OF_CLASSES: Sequence[Metric] = (
    Metric("base_accuracy", "base", None),
    Metric("new_accuracy", "new", None),
    Metric("harmonic_mean", "H", None),
)
"""What `protocol=base_to_new` finds beside: accuracies, and their harmonic mean."""

WORST_TENTH = "worst_tenth_accuracy"

OF_PASSES: Sequence[Metric] = (Metric(WORST_TENTH, "worst tenth", None),)
"""What is found beside where the test images are shown several times, in other orders or tasks: the
mean accuracy of the worst tenth of these."""

ALL = (*METRICS, *OF_SETS, *OF_CLASSES, *OF_PASSES)
