"""GDA: Gaussian discriminant analysis beside CLIP's classifier (Wang et al., ICLR 2024)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.heads.base import Head
from src.heads.support import Support

NEAREST, COPIES = 64, 16
"""How many samples stand for a class without any, and how many copies of its text."""


class Gda(Head):
    """Add to CLIP's logits those of Gaussian classes with one covariance.

    With `f` the global and `T` `[c, d]` the text features, both normalised, and the M normalised
    features x_i of the support set's crops, each crop a sample of its own (section 3 of "A
    Hard-to-Beat Baseline for Training-Free CLIP-Based Adaptation"):

        μ_c = mean of the x_i of class c;  Σ = covariance of the x_i - μ of their class   [d, d]
        P = d · ((M - 1) Σ + tr(Σ) I)⁻¹       (the ridge of Kubokawa and Srivastava)     [d, d]
        W = μ P [c, d],  b_c = -log C - ½ μ_cᵀ P μ_c                                      [c]
        logits = scale · f Tᵀ + alpha · (f Wᵀ + b)                                        [c]

    As in the authors' release, every class is equally likely before its image is seen. (It also
    centres Σ over all rows, whose mean is 0 already.) A support set of one sample per class has no
    spread: P is 0 then, and the logits are CLIP's plus a constant.

    Attributes:
        weight: float32 `[c, d]`, W, after `prepare`.
        bias: float32 `[c]`, b, after `prepare`.
    """

    searched = ("alpha",)
    needs_every_class = True
    text: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, text: Float[Tensor, "c d"], logit_scale: float, alpha: float) -> None:
        """Keep the settings; `alpha`, from 0 up, is the Gaussian classes' share."""
        super().__init__()
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.register_buffer("weight", torch.zeros_like(text))
        self.register_buffer("bias", torch.zeros_like(text[:, 0]))
        self.logit_scale = logit_scale
        self.alpha = alpha

    def prepare(self, support: Support) -> None:
        """Fit the Gaussian classes, in float64, one crop of all images after the other."""
        crops, label = support.features["global"], support.label
        mean = torch.zeros_like(self.weight, dtype=torch.float64)
        for crop in crops:
            mean.index_add_(0, label, F.normalize(crop.double(), dim=-1))
        count = len(crops) * torch.bincount(label, minlength=len(mean))
        mean /= count.unsqueeze(-1)
        scatter = mean.new_zeros(mean.shape[1], mean.shape[1])  # (M - 1) Σ
        for crop in crops:
            rows = F.normalize(crop.double(), dim=-1) - mean[label]
            scatter += rows.T @ rows
        spread = scatter.trace() / max(len(crops) * len(label) - 1, 1)
        weight = torch.zeros_like(mean)
        if spread > 0:
            width = mean.shape[1]
            ridge = scatter + spread * torch.eye(width, dtype=mean.dtype)
            factor = torch.linalg.cholesky(ridge)
            weight = width * torch.cholesky_solve(mean.T, factor).T
        self.weight.copy_(weight)
        self.bias.copy_(-math.log(len(mean)) - 0.5 * (weight * mean).sum(dim=1))

    def for_classes(
        self, given: Mapping[str, Any], settings: Mapping[str, Any], support: Support | None
    ) -> "Gda":
        """Make Gaussian classes of text alone, as the authors' release does for new classes.

        Of a class with text feature w, the `NEAREST` samples v of the support set nearest to w
        stand for its images, and `COPIES` of w for its text:

            μ = mean of those v and copies of w;  Cov = mean of (v - w)(v - w)ᵀ, unbiased    [d, d]
            P = mean over classes of d · ((NEAREST - 1) Cov + tr(Cov) I)⁻¹                   [d, d]

        alpha stays. Here the samples are all crops of the support images, as in `prepare`; where
        there are fewer than `NEAREST`, all of them.
        """
        assert support is not None
        other = Gda(given["text"], given["logit_scale"], **settings)
        samples = F.normalize(support.features["global"].double().flatten(0, 1), dim=-1)
        text = other.text.double()
        near = (text @ samples.T).topk(min(NEAREST, len(samples)), dim=1).indices
        mean, precision = torch.zeros_like(text), text.new_zeros(text.shape[1], text.shape[1])
        identity = torch.eye(text.shape[1], dtype=text.dtype)
        for label, (of_class, rows) in enumerate(zip(text, near, strict=True)):
            mean[label] = (samples[rows].sum(dim=0) + COPIES * of_class) / (len(rows) + COPIES)
            scatter = (samples[rows] - of_class).T @ (samples[rows] - of_class)
            spread = scatter.trace() / max(len(rows) - 1, 1)
            if spread > 0:
                ridge = torch.linalg.cholesky(scatter + spread * identity)
                precision += len(identity) * torch.cholesky_inverse(ridge) / len(text)
        weight = mean @ precision
        other.weight.copy_(weight)
        other.bias.copy_(-math.log(len(mean)) - 0.5 * (weight * mean).sum(dim=1))
        return other.eval()

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        clip, gaussian = self._terms(global_features)
        return clip + self.alpha * gaussian

    def lines(
        self, _: Sequence[float], global_features: Float[Tensor, "n d"]
    ) -> Iterator[tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]]:
        """Give the one line `(base, direction)` with logits = base + alpha · direction."""
        yield self._terms(global_features)

    def _terms(
        self, global_features: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
        global_features = F.normalize(global_features, dim=-1)
        clip = self.logit_scale * global_features @ self.text.T
        return clip, global_features @ self.weight.T + self.bias
