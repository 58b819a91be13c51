"""Kernel ridge regression from CLIP's answer to the labels (after Bendou et al., CVPR 2025)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.errors import UserError
from src.heads.base import Head
from src.heads.support import Support

EXACT_KEYS = 4_096
"""Up to so many keys the system is solved in float64, which takes a second; beyond, as it comes."""
PRIORS = ("softmax", "cosine")


class KernelRidge(Head):
    """Correct CLIP's answer by the ridge regression, in a Gaussian kernel, of what it gets wrong.

    With `x` the global and `T` `[c, d]` the text features, both normalised, the keys `S` `[n_s, d]`
    of the n_s support images (each the normalised mean of the raw features of its crops) and their
    one-hot labels `L` `[n_s, c]`:

        k(u, v) = exp(-beta · |u - v|²)
        g(x) = softmax(scale · x Tᵀ)                                                     [c]
        Γ = (k(S, S) + ridge · I)⁻¹ (L - g(S))                                      [n_s, c]
        logits = g(x) + alpha · k(x, S) Γ                                                [c]

    With alpha 1 this is the function nearest to g, in the kernel's norm, that the support images'
    labels pull at: the larger the ridge, the nearer. It is a regression of one-hot labels, so
    the logits are about 0 and 1, and their softmax is no measure of confidence.

    ProKeR (section 3 of "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large
    Vision-Language Models") is `prior=cosine`, where g(x) = x Tᵀ, with alpha equal to the ridge: as
    code that is built on its release has it, (k(S, S) / ridge + I)⁻¹ in place of the inverse above,
    and twice our beta. The paper's own release was not at hand. `prior=softmax` is ours.

    The logits are no line in the ridge. A search over it solves the system once for each value, by
    a Cholesky factor: an eigendecomposition would serve all values at once, but takes as long as
    seventy factors (at 2,000 keys). With ImageNet's 16,000 keys a value takes about 20 s on two
    cores and 64 MB, and all of them together a kernel and a factor of 1 GB each while they are
    solved. Beyond 4,096 keys this is done in float32: with a ridge of 0.01, logits are right to
    about 0.0002.

    A class without support images is only ever pulled down.

    Attributes:
        keys: `[n_s, d]`, S, after `prepare`.
        residual: `[n_s, c]`, L - g(S), after `prepare`.
        weight: `[n_s, c]`, Γ for the present ridge, after `prepare`.
    """

    searched = ("ridge", "alpha")
    affinity_factors = ("beta",)
    text: Tensor
    keys: Tensor
    residual: Tensor
    weight: Tensor

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        ridge: float,
        beta: float = 0.5,
        alpha: float = 1.0,
        prior: str = "softmax",
    ) -> None:
        """Keep the settings.

        Args:
            text: class text features.
            logit_scale: the factor on CLIP's similarities.
            ridge: how little the support images' labels are trusted, above 0.
            beta: the kernel's sharpness, above 0; 0.5 is Tip-Adapter's affinity at its beta of 1.
            alpha: the correction's share, from 0 (the prior alone) up.
            prior: g: `softmax` or `cosine`.

        Raises:
            UserError: one of them is out of its range.
        """
        super().__init__()
        for name, value in (("ridge", ridge), ("beta", beta)):
            if value <= 0:
                raise UserError(f"method.head.{name}={value} is not above 0.")
        if prior not in PRIORS:
            raise UserError(f"method.head.prior={prior} is unknown: give {' or '.join(PRIORS)}.")
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.ridge = ridge
        self.beta = beta
        self.alpha = alpha
        self.prior = prior
        self._solved: dict[float, Tensor] = {}

    def prepare(self, support: Support) -> None:
        """Make the keys, and solve for the present ridge.

        Raises:
            UserError: the ridge is too small for the system to be solved.
        """
        views = support.features["global"]
        keys = F.normalize(views.mean(dim=0, dtype=self.text.dtype), dim=-1).to(self.text.device)
        one_hot = F.one_hot(support.label.to(keys.device), len(self.text)).to(keys)
        self.register_buffer("keys", keys)
        self.register_buffer("residual", one_hot.sub_(self._prior(keys)))
        self._solved = self._solve([self.ridge])
        self.register_buffer("weight", self._solved[self.ridge])

    def choose(self, settings: Mapping[str, Any]) -> None:
        """Change settings; another ridge is solved for, unless a search has just done so."""
        before = self.ridge
        super().choose(settings)
        if self.ridge != before:
            solved = self._solved if self.ridge in self._solved else self._solve([self.ridge])
            self.weight.copy_(solved[self.ridge])
        self._solved = {}

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        prior, kernel = self._compare(global_features)
        return prior + self.alpha * (kernel @ self.weight)

    def lines(
        self, ridge_values: Sequence[float], global_features: Float[Tensor, "n d"]
    ) -> Iterator[tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]]:
        """For each ridge, `(base, direction)` with logits = base + alpha · direction."""
        prior, kernel = self._compare(global_features)
        # Kept for the batches that follow, until something is chosen.
        self._solved |= self._solve([ridge for ridge in ridge_values if ridge not in self._solved])
        for ridge in ridge_values:
            yield prior, kernel @ self._solved[ridge].to(kernel)

    def _prior(self, normalized: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        cosine = normalized @ self.text.T
        return cosine if self.prior == "cosine" else (self.logit_scale * cosine).softmax(dim=-1)

    def _compare(
        self, global_features: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n n_s"]]:
        global_features = F.normalize(global_features, dim=-1)
        return self._prior(global_features), self._kernel(global_features, self.keys)

    def _kernel(
        self, one: Float[Tensor, "n d"], other: Float[Tensor, "m d"]
    ) -> Float[Tensor, "n m"]:
        """Compute k of unit vectors, in place: |u - v|² = 2 - 2 u·v."""
        return (one @ other.T).sub_(1).mul_(2 * self.beta).exp_()

    def _solve(self, ridges: Sequence[float]) -> dict[float, Float[Tensor, "n_s c"]]:
        """Compute Γ for each ridge."""
        if not ridges:
            return {}
        exact = len(self.keys) <= EXACT_KEYS
        keys = self.keys.double() if exact else self.keys
        residual = self.residual.to(keys)
        kernel = self._kernel(keys, keys)
        weights = {}
        for ridge in ridges:
            kernel.diagonal().fill_(1 + ridge)
            # The factor lies in memory by columns, as LAPACK wants it: neither solve copies it.
            factor, failed = torch.linalg.cholesky_ex(kernel)
            if failed:
                raise UserError(
                    f"method.head.ridge={ridge} is too small for {len(keys)} support images, some "
                    "of which are nearly equal: give a larger one."
                )
            half = torch.linalg.solve_triangular(factor, residual, upper=False)
            weight = torch.linalg.solve_triangular(factor.mT, half, upper=True)
            weights[ridge] = weight.to(self.keys)
            del factor, half
        return weights
