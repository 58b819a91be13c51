"""Linear probe: logistic regression on image features (Radford et al., ICML 2021, section 3.2).

The protocol is that of CoOp's `lpclip/linear_probe.py` (Zhou et al., IJCV 2022).
"""

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from src.heads.base import Head
from src.heads.support import Support

MAX_ITERATIONS = 1000
COARSE_EXPONENTS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)
BISECTIONS = 8


class LinearProbe(Head):
    """`f Wᵀ + b` with `f` `[d]` the global feature as CLIP gives it, not normalised.

    The logits are those of the regression, so that their softmax is its probabilities; neither the
    text features nor the logit scale enters. Every view of a support image is a training image.

    Attributes:
        weight: float32 `[c, d]`, after `prepare`.
        bias: float32 `[c]`, after `prepare`.
    """

    given = ("text",)
    searched = ("c",)
    needs_every_class = True
    depth_maps = "refused"
    weight: Tensor
    bias: Tensor

    def __init__(self, text: Float[Tensor, "c d"], c: float) -> None:
        """Take the number of classes and the width from `text`, which has no other use here.

        Args:
            text: class text features.
            c: scikit-learn's C, above 0: the inverse of the strength of L2.
        """
        super().__init__()
        self.register_buffer("weight", torch.zeros_like(text))
        self.register_buffer("bias", torch.zeros_like(text[:, 0]))
        self.c = c

    def prepare(self, support: Support) -> None:
        """Take the support images in, as rows in float64 like lpclip's, and fit at `c`."""
        views = support.features["global"]
        self._features = views.flatten(end_dim=1).double().numpy(force=True)
        self._label = support.label.repeat(len(views)).numpy(force=True)
        self.fit(self.c)

    def choose(self, settings: Mapping[str, Any]) -> None:
        """Fit the regression again at another `c`."""
        self.fit(**settings)

    def fit(self, c: float) -> None:
        """Fit the regression at `c` and keep it, `c` included."""
        regression = _regression(self._features, self._label, c)
        weight, bias = regression.coef_, regression.intercept_
        if (
            len(self.weight) == 2
        ):  # Of two classes, scikit-learn keeps the logit of the second; that of the first is 0.
            weight, bias = (np.concatenate([np.zeros_like(part), part]) for part in (weight, bias))
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.copy_(torch.from_numpy(bias))
        self.c = c

    def choose_c(
        self, validation_features: Float[Tensor, "m d"], validation_label: Int[Tensor, " m"]
    ) -> tuple[float, float]:
        """Search C on labelled validation images as CoOp's lpclip does; the head stays as it is.

        The best (the first, largest, of equals) of 1e6, 1e4, ..., 1e-6 gives the first bracket, a
        tenth and ten times as much. In each of 8 rounds the ends are compared; the better one
        (the lower of equals) stays and the other moves to the middle, in log10. The last round's
        better end is chosen, whatever the accuracy was before.

        Returns:
            The chosen C and its accuracy (per cent) on the validation images.
        """
        validation = validation_features.double().numpy(force=True)
        expected = validation_label.numpy(force=True)

        @cache
        def accuracy(exponent: float) -> float:
            predicted = _regression(self._features, self._label, 10.0**exponent).predict(validation)
            return 100.0 * float((predicted == expected).mean())

        peak = max(COARSE_EXPONENTS, key=accuracy)
        left, right = peak - 1, peak + 1
        for _ in range(BISECTIONS):
            middle = (left + right) / 2
            if accuracy(left) < accuracy(right):
                chosen, left = right, middle
            else:
                chosen, right = left, middle
        return 10.0**chosen, accuracy(chosen)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return global_features @ self.weight.T + self.bias


def _regression(
    features: NDArray[np.float64], label: NDArray[np.int64], c: float
) -> LogisticRegression:
    """Fit by L-BFGS with an L2 penalty, scikit-learn's defaults, over all classes jointly."""
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        # With one image per class, scikit-learn warns that this may be a regression problem.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        # NumPy's and SciPy's BLAS keep a pool of threads each. On a busy machine they wait for
        # each other: 16 s instead of 0.9 s for 1,600 x 512 features of 100 classes on 2 cores.
        return LogisticRegression(C=c, max_iter=MAX_ITERATIONS).fit(features, label)
