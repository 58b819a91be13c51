"""`outcome.safetensors`: a run's answer for each image, from which its figures are drawn."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from src.errors import UserError
from src.files import replacing
from src.results.metrics import CALIBRATION_BINS

FILE = "outcome.safetensors"


class Outcome(NamedTuple):
    """The answers on the test split, and what a search over two settings saw.

    Attributes:
        class_names: the name of each class.
        label: int64 `[n]`, in the split's order.
        prediction: int64 `[n]`, the class with the highest logit.
        confidence: float32 `[n]`, its softmax probability.
        search: float32 `[outer, inner]`, accuracy (per cent) at each point of the release's grid,
            on the images that settings were chosen on; None if two settings were not searched.
        search_axes: the outer and then the inner setting's values, by name.
    """

    class_names: Sequence[str]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float32]
    search: NDArray[np.float32] | None = None
    search_axes: Mapping[str, Sequence[float]] = {}

    def write(self, folder: Path) -> None:
        """Write `outcome.safetensors` into `folder`, atomically."""
        named = self._asdict()
        about = {name: json.dumps(named.pop(name)) for name in ("class_names", "search_axes")}
        tensors = {name: array for name, array in named.items() if array is not None}
        about["checksum"] = _checksum(about, tensors)
        with replacing(folder / FILE) as temporary:
            save_file(tensors, temporary, metadata=about)

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """Read one `outcome.safetensors`.

        Raises:
            UserError: it is damaged, or not an outcome.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.pop("checksum", None) not in (None, _checksum(about, tensors)):
                raise ValueError("it does not have its checksum")
            parts = {name: json.loads(text) for name, text in about.items()}
            outcome = cls(**parts, **tensors)
            outcome.check()
        except (
            OSError, SafetensorError, AttributeError, RecursionError, TypeError, ValueError
        ) as error:  # fmt: skip
            raise UserError(f"{path} is not the outcome of a run: {error!r}.") from None
        return outcome

    def check(self) -> None:
        """Check that the parts fit together.

        Raises:
            ValueError: one does not.
        """
        names, classes, images = self.class_names, len(self.class_names), self.label.shape
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("class_names is no list of texts")
        for name, array in (("label", self.label), ("prediction", self.prediction)):
            if array.dtype != np.int64 or array.ndim != 1 or array.shape != images:
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
            if array.size and not 0 <= array.min() <= array.max() < classes:
                raise ValueError(f"{name} is not among {classes} classes")
        confidence = self.confidence
        if confidence.dtype.kind != "f" or confidence.shape != images:
            raise ValueError(f"confidence is {confidence.dtype} {list(confidence.shape)}")
        if not ((confidence >= 0) & (confidence <= 1.0001)).all():
            raise ValueError("confidence is not between 0 and 1")
        axes = [list(map(float, values)) for values in self.search_axes.values()]
        if self.search is not None and self.search.shape != tuple(map(len, axes)):
            raise ValueError(f"search is {list(self.search.shape)}")

    def confusion(self) -> NDArray[np.int64]:
        """Count the images `[c, c]` of each class (row) that were taken for each class (column)."""
        classes = len(self.class_names)
        pairs = self.label * classes + self.prediction
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def class_accuracy(self) -> NDArray[np.float64]:
        """Accuracy (per cent) on each class's images `[c]`; NaN for a class without any."""
        return 100.0 * class_accuracy(self.confusion())

    def reliability(self) -> "Reliability":
        """Group the images by confidence, in bins of equal width (Guo et al., ICML 2017)."""
        n = CALIBRATION_BINS
        edges = np.linspace(0, 1, n + 1)
        # A confidence on an edge belongs to the upper bin, as in torchmetrics. But 1 itself belongs
        # to the last bin here, where torchmetrics gives it a sixteenth.
        bins = np.clip(np.searchsorted(edges, self.confidence, side="right") - 1, 0, n - 1)
        images = np.bincount(bins, minlength=n)
        sums = [
            np.bincount(bins, weights=values, minlength=n)
            for values in (self.confidence, self.prediction == self.label)
        ]
        filled = np.maximum(images, 1)
        return Reliability(images, sums[0] / filled, sums[1] / filled)


def _checksum(about: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def class_accuracy(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the share of right answers on each class's images `[c]`; NaN for a class without any.

    Args:
        confusion: images `[c, c]` of each class (row) that were taken for each class (column).
    """
    images = confusion.sum(axis=1)
    right = confusion.diagonal().astype(np.float64)
    return np.divide(right, images, out=np.full(len(images), np.nan), where=images > 0)


class Reliability(NamedTuple):
    """For each bin of confidence: how many images, their mean confidence, the share that is right.

    Attributes:
        images: int64 `[15]`; where it is 0, the other two are 0 too.
        confidence: float64 `[15]`, 0 to 1.
        accuracy: float64 `[15]`, 0 to 1.
    """

    images: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def wilson_interval(accuracy: float, n: int, z: float = 1.96) -> list[float]:
    """Compute the 95 % interval (per cent) of an accuracy (per cent) on `n` images."""
    p, share = accuracy / 100, z * z / n
    centre, half = p + share / 2, z * ((p * (1 - p) + share / 4) / n) ** 0.5
    return [100 * (centre - half) / (1 + share), 100 * (centre + half) / (1 + share)]
