"""Sets of classes that hold the true one with a chosen probability: split conformal prediction.

Half of the labelled images, kept apart, calibrate a threshold; a set holds the classes whose score
is at most that. The scores, the split by class and the figures are those of CLIP-Conformal
(Silva-Rodríguez et al., CVPR 2025), but for one thing: its code takes a random share, uniform from
0 to 1, of a class's own probability off the scores `aps` and `raps`, and here all of it is off. So
an image always has the same set, which is never empty. With nothing off, a set held 7 of the 10
classes of `digits` where 1 is enough (tip_adapter, 16 shots, calibrated; mean over 50 splits).
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

PENALTY, FREE_RANKS = 0.001, 1
"""Of `raps`: what each rank adds to the score, beyond the first ones (λ and k)."""

Probabilities = NDArray[np.floating[Any]]


def lac(probabilities: Probabilities) -> NDArray[np.float64]:
    """Score each class `[n, c]` by what its probability lacks to 1 (Sadinle et al., 2019)."""
    return 1 - probabilities.astype(np.float64)


def aps(probabilities: Probabilities) -> NDArray[np.float64]:
    """Score each class `[n, c]` by the summed probability of all more probable ones.

    Romano et al., NeurIPS 2020. Of equally probable classes, the one with the lower label counts as
    more probable.
    """
    order = _order(probabilities)
    summed = np.take_along_axis(probabilities.astype(np.float64), order, axis=1).cumsum(axis=1)
    summed[:, 1:], summed[:, 0] = summed[:, :-1].copy(), 0
    return _put_back(summed, order)


def raps(probabilities: Probabilities) -> NDArray[np.float64]:
    """Score each class `[n, c]` as `aps` does, and more from rank `FREE_RANKS` + 1 on.

    Angelopoulos et al., ICLR 2021, with the constants of CLIP-Conformal.
    """
    ranks = np.arange(1, probabilities.shape[1] + 1)
    penalty = np.broadcast_to(PENALTY * np.maximum(0, ranks - FREE_RANKS), probabilities.shape)
    return aps(probabilities) + _put_back(penalty, _order(probabilities))


SCORES: Mapping[str, Callable[[Probabilities], NDArray[np.float64]]] = {
    "lac": lac, "aps": aps, "raps": raps,
}  # fmt: skip


def _order(probabilities: Probabilities) -> NDArray[np.intp]:
    return np.argsort(-probabilities, axis=1, kind="stable")


def _put_back(values: NDArray[np.float64], order: NDArray[np.intp]) -> NDArray[np.float64]:
    back = np.empty(values.shape)
    np.put_along_axis(back, order, values, axis=1)
    return back


def calibrate(
    probabilities: Probabilities, label: NDArray[np.int64], score: str, coverage: float
) -> dict[str, Any]:
    """Find the threshold with which sets hold the true class of `coverage` of new images.

    It is the k-th smallest score of the true classes, k = ⌈(n + 1) coverage⌉.

    Args:
        probabilities: `[n, c]`, of n labelled images that nothing else was chosen on.
        label: int64 `[n]`.
        score: one of `SCORES`.
        coverage: between 0 and 1, both excluded.

    Returns:
        What `prediction_sets` takes: `score`, `coverage`, `threshold`, which is None where n images
        are too few for that coverage, so that sets hold all classes; and `images`, n.
    """
    scores = np.sort(SCORES[score](probabilities)[np.arange(len(label)), label])
    k = math.ceil(Fraction(str(coverage)) * (len(scores) + 1))  # in floats, 0.55 · 100 > 55
    threshold = float(scores[k - 1]) if k <= len(scores) else None
    return {"score": score, "coverage": coverage, "threshold": threshold, "images": len(scores)}


def prediction_sets(
    probabilities: Probabilities, conformal: Mapping[str, Any]
) -> NDArray[np.bool_]:
    """Say which classes the set of each image holds, bool `[n, c]`; one of `lac` may be empty.

    Args:
        probabilities: `[n, c]`, of the classifier that was calibrated.
        conformal: what `calibrate` returned.
    """
    if conformal["threshold"] is None:
        return np.ones(probabilities.shape, dtype=np.bool_)
    found: NDArray[np.bool_] = SCORES[conformal["score"]](probabilities) <= conformal["threshold"]
    return found


def figures(sets: NDArray[np.bool_], label: NDArray[np.int64], coverage: float) -> dict[str, float]:
    """Measure sets on labelled images that they were not calibrated on.

    Args:
        sets: bool `[n, c]`, n at least 1.
        label: int64 `[n]`.
        coverage: what they were calibrated for, 0 to 1.

    Returns:
        `coverage`, the share of the images (per cent) whose set holds the true class;
        `mean_set_size`, in classes; and `class_coverage_gap`, how far the coverage (points of per
        cent) of a class is from the one asked for, in the mean over the classes that have images.
    """
    covered = sets[np.arange(len(label)), label]
    by_class = [covered[label == one].mean() for one in np.unique(label)]
    return {
        "coverage": 100 * float(covered.mean()),
        "mean_set_size": float(sets.sum(axis=1).mean()),
        "class_coverage_gap": 100 * float(np.mean(np.abs(np.array(by_class) - coverage))),
    }


def kept_apart(label: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Choose the images that calibrate, bool `[n]`: half of each class, drawn by the seed.

    Of an odd number of images the smaller half, and the image of a class that has a single one.
    """
    chosen = np.zeros(len(label), dtype=np.bool_)
    generator = np.random.default_rng(seed)
    for one in np.unique(label):
        rows = generator.permutation(np.flatnonzero(label == one))
        chosen[rows[: max(1, len(rows) // 2)]] = True
    return chosen
