"""How the runs of each protocol are read: what is compared, and over which datasets.

A protocol is what `src.results.record.Result` calls so. Runs of different ones are never averaged,
and share no table and no figure.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from src.config import ALL_CLASSES
from src.results.metrics import ALL, Metric
from src.results.published import published_base_to_new
from src.results.record import Result

BASE_TO_NEW = "base_to_new"
BASE, NEW, HARMONIC = "base_accuracy", "new_accuracy", "harmonic_mean"
HEADINGS = {metric.name: metric.heading for metric in ALL}


class Protocol(NamedTuple):
    """How the runs of one protocol are read.

    Attributes:
        heading: that of its part of a report.
        about: what its runs were adapted to and tested on.
        metrics: what its tables hold, by the names of `src.results.metrics.ALL`. The last one is
            what methods are compared by.
        quantity: what that is, in words.
        elsewhere: averages are over the datasets that were tested on beside the one adapted to.
        beside: what other metrics of its runs are of, where that is not plain.
    """

    heading: str
    about: str = ""
    metrics: tuple[str, ...] = ("accuracy",)
    quantity: str = "top-1 accuracy"
    elsewhere: bool = False
    beside: str = ""

    @property
    def metric(self) -> str:
        """The name of what methods are compared by."""
        return self.metrics[-1]


_IMBALANCED = (
    "the support images are drawn as often as their classes occur among the training images, shots "
    "times classes in all; {}. What counts is the mean accuracy of the classes."
)
_BY_CLASS: Any = {"metrics": ("mean_class_accuracy",), "quantity": "mean class accuracy"}

PROTOCOLS: Mapping[str, Protocol] = {
    ALL_CLASSES: Protocol("Accuracy"),
    BASE_TO_NEW: Protocol(
        "From base to new classes",
        "adapted to the first half of a dataset's classes (base), tested on their images and on "
        "those of the other half (new), each among the classes of its half.",
        (BASE, NEW, HARMONIC),
        "harmonic mean H of base and new accuracy",
        beside="All metrics but new and H are of the base classes, and so is validation.",
    ),
    "cross_dataset": Protocol(
        "On other datasets",
        "adapted to one dataset, and tested on others with classes of their own.",
        elsewhere=True,
    ),
    "shift": Protocol(
        "Under a shift",
        "adapted to one dataset, and tested on others that have its classes.",
        elsewhere=True,
    ),
    "tasks": Protocol(
        "On small tasks",
        "tested on small tasks, in each of which few of the classes occur; the images are told "
        "apart among all classes. Accuracies are means over the tasks.",
    ),
    "stream_by_class": Protocol(
        "On streams, class by class", "the test images arrive as a stream, class by class."
    ),
    "stream_dirichlet": Protocol(
        "On uneven streams",
        "the test images arrive as a stream, over which each class is spread by a Dirichlet "
        "distribution.",
    ),
    "imbalanced_relaxed": Protocol(
        "Imbalanced support sets, relaxed",
        _IMBALANCED.format("every class has one at least"),
        **_BY_CLASS,
    ),
    "imbalanced_realistic": Protocol(
        "Imbalanced support sets, realistic",
        _IMBALANCED.format("a class may have none"),
        **_BY_CLASS,
    ),
}


def reading(protocol: str) -> Protocol:
    """Say how the runs of a protocol are read; one that is not known goes by its accuracy."""
    return PROTOCOLS.get(protocol, Protocol(protocol))


def in_words(protocol: str) -> str:
    """Name a protocol in a title; the usual one goes without saying."""
    return "" if protocol == ALL_CLASSES else protocol


def columns(protocol: str) -> list[Metric]:
    """Order the metrics of a run, those that count first; none stands there twice."""
    first = reading(protocol).metrics
    twice = {"accuracy"} if protocol == BASE_TO_NEW else set()  # it is that of the base classes
    own = [metric for name in first for metric in ALL if metric.name == name]
    return own + [metric for metric in ALL if metric.name not in {*first, *twice}]


def published_figures(result: Result) -> dict[str, dict[str, float]]:
    """Look up what was published for a run, in per cent: by metric, and by source."""
    if result.protocol != BASE_TO_NEW:
        return {"accuracy": dict(result.published_by_source)}
    place = (result.dataset, result.method, result.shots, result.backbone, str(result.weights))
    pairs = published_base_to_new(*place)
    return {
        BASE: {source: base for source, (base, _) in pairs.items()},
        NEW: {source: new for source, (_, new) in pairs.items()},
        HARMONIC: {source: float(harmonic_mean(*pair)) for source, pair in pairs.items()},
    }


def harmonic_mean(base: Any, new: Any) -> Any:
    """Compute H of two accuracies from 0 up, or of those of each run; 0 where both are 0.

    Args:
        base: a number, or a series of them.
        new: the same.
    """
    total = base + new
    return 2 * base * new / np.where(total == 0, 1, total)
