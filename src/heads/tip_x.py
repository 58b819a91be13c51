"""Tip-X: a cache that also compares what texts images are near (Udandarao et al., ICCV 2023)."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.errors import UserError
from src.heads.base import Head
from src.heads.support import Support

ROWS = 1_024
"""Keys that are compared with all others at a time: 64 MB with ImageNet's 16,000."""


class TipX(Head):
    """Add to Tip-Adapter the divergence of the images' distributions over classes.

    With `f` the global and `T` `[c, d]` the text features, both normalised, the keys `K`
    `[n_s, d]` (each the normalised mean of the raw features of an image's crops) and the one-hot
    labels `L` `[n_s, c]` of the n_s support images ("SuS-X: Training-Free Name-Only Transfer of
    Vision-Language Models", section 3.2; constants as in the authors' release):

        p(u) = softmax(u Tᵀ / temperature)
        M_i = KL(p(f) ‖ p(K_i))                                                        [n_s]
        logits = scale · f Tᵀ + alpha · exp(-beta · (1 - f Kᵀ)) L - gamma · ψ(M) L          [c]

    ψ scales divergences linearly, so that their range becomes that of the affinities f Kᵀ. The
    release takes both ranges over a whole split of images and, by mistake, that of the validation
    images' affinities for the test images. Here an image's logits depend on no other image to be
    classified: both ranges are those among the support images, over all pairs of different ones.

    Attributes:
        keys: `[n_s, d]`, after `prepare`.
        label: int64 `[n_s]`, after `prepare`.
        count: `[c]`, the number of keys of each class, after `prepare`.
        log_key: `[c, c]`, row c the sum of log p(K_i) over the keys of class c, after `prepare`.
        slope: `[]`, ψ(M) = slope · M + offset, after `prepare`.
        offset: `[]`, after `prepare`.
    """

    searched = ("alpha", "beta", "gamma")
    affinity_factors = ("beta",)
    needs_every_class = True
    text: Tensor
    keys: Tensor
    label: Tensor
    count: Tensor
    log_key: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        alpha: float,
        beta: float,
        gamma: float,
        temperature: float = 0.5,
    ) -> None:
        """Keep the settings.

        Args:
            text: class text features.
            logit_scale: the factor on CLIP's similarities.
            alpha: the share of the affinities, from 0 up.
            beta: their sharpness, from 0 up.
            gamma: the share of the divergences, from 0 up.
            temperature: that of the distributions over classes, above 0.

        Raises:
            UserError: the temperature is not above 0.
        """
        super().__init__()
        if temperature <= 0:
            raise UserError(f"method.head.temperature={temperature} is not above 0.")
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def prepare(self, support: Support) -> None:
        """Make the cache, and find the ranges among the support images."""
        views = support.features["global"]
        keys = F.normalize(views.mean(dim=0, dtype=self.text.dtype), dim=-1).to(self.text.device)
        label = support.label.to(keys.device)
        log_p = self._log_p(keys)
        log_key = log_p.new_zeros(len(self.text), len(self.text))
        slope, offset = _scaling(keys, log_p)
        self.register_buffer("keys", keys)
        self.register_buffer("label", label)
        self.register_buffer("count", torch.bincount(label, minlength=len(self.text)).to(keys))
        self.register_buffer("log_key", log_key.index_add_(0, label, log_p))
        self.register_buffer("slope", slope)
        self.register_buffer("offset", offset)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        (line,) = self.lines([(self.beta, self.gamma)], global_features)
        base, votes = line
        return base + self.alpha * votes

    def lines(
        self, outer_values: Sequence[tuple[float, float]], global_features: Float[Tensor, "n d"]
    ) -> Iterator[tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]]:
        """For each (beta, gamma), `(base, direction)` with logits = base + alpha · direction.

        It is quick where the values of one beta follow one another.
        """
        f = F.normalize(global_features, dim=-1)
        clip = self.logit_scale * f @ self.text.T
        nearness = (self.keys @ f.T).sub_(1)
        divergence = self._summed_divergence(f)
        votes_of: tuple[float, Tensor] | None = None
        for beta, gamma in outer_values:
            if votes_of is None or votes_of[0] != beta:
                votes = nearness.new_zeros(len(self.text), nearness.shape[1])
                votes.index_add_(0, self.label, (beta * nearness).exp_())
                votes_of = beta, votes.T
            yield clip - gamma * divergence, votes_of[1]

    def _log_p(self, normalized: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return (normalized @ self.text.T / self.temperature).log_softmax(dim=-1)

    def _summed_divergence(self, normalized: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Compute ψ(M) L from sums over classes: Σ_i KL = n_c Σ p log p - p · Σ_i log p(K_i)."""
        log_p = self._log_p(normalized)
        p = log_p.exp()
        negentropy = (p * log_p).sum(dim=-1, keepdim=True)
        summed = negentropy * self.count - p @ self.log_key.T
        return self.slope * summed + self.offset * self.count


def _scaling(
    keys: Float[Tensor, "n d"], log_p: Float[Tensor, "n c"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Find the slope and the offset that take divergences of keys to the range of their affinities.

    Where all divergences are the same, the slope is 0; a single key has no range, and both are 0.
    """
    if len(keys) < 2:
        return keys.new_zeros(()), keys.new_zeros(())
    p = log_p.exp()
    negentropy = (p * log_p).sum(dim=-1)
    ranges = []
    for start in range(0, len(keys), ROWS):
        rows = slice(start, start + ROWS)
        affinity = keys[rows] @ keys.T
        divergence = negentropy[rows].unsqueeze(1) - p[rows] @ log_p.T
        ranges.append(torch.stack([*_range(affinity, start), *_range(divergence, start)]))
    low, high = torch.stack(ranges).amin(dim=0), torch.stack(ranges).amax(dim=0)
    extent = high[3] - low[2]
    slope = torch.where(extent > 0, (high[1] - low[0]) / extent, 0)
    return slope, low[0] - slope * low[2]


def _range(values: Float[Tensor, "m n"], start: int) -> tuple[Tensor, Tensor]:
    """Find the least and the largest of some rows of a matrix, from `start`, off its diagonal."""
    own = values.diagonal(start)
    own.fill_(math.inf)
    low = values.min()
    own.fill_(-math.inf)
    return low, values.max()
