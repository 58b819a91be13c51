"""APE: Tip-Adapter's cache on the channels that tell classes apart (Zhu et al., ICCV 2023)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from src.errors import UserError
from src.heads.base import Head
from src.heads.support import Support

FULL = 1_024
"""The width of the features that the published numbers of channels belong to: that of RN50."""
SMOOTHING = 1e-6
"""Keeps the logarithm finite, in the release."""


class Ape(Head):
    """Add to CLIP's logits the support images' votes, compared on chosen channels and weighted.

    With `f` the global and `T` `[c, d]` the text features, both normalised, the keys `K`
    `[n_s, d]` (each the normalised mean of the raw features of an image's crops) and the one-hot
    labels `L` `[n_s, c]` of the n_s support images ("Not All Features Matter: Enhancing Few-shot
    CLIP with Adaptive Prior Refinement", section 3; constants as in the authors' release):

        chosen channels: the Q with the largest J, see `choose_channels`
        f', T', K': restricted to them and normalised again
        D_i = Σ_c L_ic log2((L_ic + 1e-6) / (softmax(K'_i T'ᵀ)_c + 1e-6))              [n_s]
        logits = scale · f Tᵀ + alpha · exp(-beta · (1 - f' K'ᵀ)) (exp(gamma · D) ∘ L)     [c]

    D_i, a divergence in bits, is large where CLIP does not see the class of support image i.

    Attributes:
        channels: int64 `[q]`, the chosen channels, after `prepare`.
        keys: `[n_s, q]`, K', after `prepare`.
        divergence: `[n_s]`, D, after `prepare`.
        label: int64 `[n_s]`, after `prepare`.
    """

    searched = ("alpha", "beta", "gamma")
    affinity_factors = ("beta",)
    needs_every_class = True
    text: Tensor
    channels: Tensor
    keys: Tensor
    divergence: Tensor
    label: Tensor

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        alpha: float,
        beta: float,
        gamma: float,
        channels: int,
        similarity_weight: float,
        variance_weight: float,
    ) -> None:
        """Keep the settings.

        Args:
            text: class text features.
            logit_scale: the factor on CLIP's similarities.
            alpha: the cache's share, from 0 up.
            beta: its sharpness, from 0 up.
            gamma: how much more the images count that CLIP gets wrong, from 0 up.
            channels: how many of 1,024 channels are chosen, as published; of features of another
                width, the same share of theirs.
            similarity_weight: how much similar classes count against a channel.
            variance_weight: how much the spread of the classes' texts counts for it.

        Raises:
            UserError: `channels` is not from 1 to 1,024.
        """
        super().__init__()
        self.count = share_of_channels(channels, text.shape[1])
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.weights = similarity_weight, variance_weight

    def prepare(self, support: Support) -> None:
        """Choose the channels, and make the cache."""
        views = support.features["global"]
        keys = F.normalize(views.mean(dim=0, dtype=self.text.dtype), dim=-1).to(self.text.device)
        label = support.label.to(keys.device)
        channels = choose_channels(self.text, self.count, *self.weights, keys, label)
        chosen_keys = F.normalize(keys[:, channels], dim=-1)
        chosen_text = F.normalize(self.text[:, channels], dim=-1)
        seen = (chosen_keys @ chosen_text.T).softmax(dim=-1)
        own = seen.gather(1, label.unsqueeze(1)).squeeze(1)
        # Only the image's own class has a share: of the others, 0 times a logarithm remains.
        divergence = ((1 + SMOOTHING) / (own + SMOOTHING)).log2()
        self.register_buffer("channels", channels)
        self.register_buffer("keys", chosen_keys)
        self.register_buffer("divergence", divergence)
        self.register_buffer("label", label)

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
        nearness = (self.keys @ F.normalize(f[:, self.channels], dim=-1).T).sub_(1)
        affinity_of: tuple[float, Tensor] | None = None
        for beta, gamma in outer_values:
            if affinity_of is None or affinity_of[0] != beta:
                affinity_of = beta, (beta * nearness).exp_()
            weight = (gamma * self.divergence).exp_().unsqueeze(1)
            votes = nearness.new_zeros(len(self.text), nearness.shape[1])
            yield clip, votes.index_add_(0, self.label, weight * affinity_of[1]).T


def share_of_channels(channels: int, width: int) -> int:
    """Turn a number of 1,024 channels into one of `width`, at least 1.

    Raises:
        UserError: it is not from 1 to 1,024.
    """
    if not 1 <= channels <= FULL:
        raise UserError(
            f"method.head.channels={channels} is not from 1 to {FULL}: it counts channels of "
            f"{FULL}, and of features of another width the same share is chosen."
        )
    return max(1, channels * width // FULL)


def choose_channels(
    text: Float[Tensor, "c d"],
    count: int,
    similarity_weight: float,
    variance_weight: float,
    keys: Float[Tensor, "n d"] | None = None,
    label: Int[Tensor, " n"] | None = None,
) -> Int[Tensor, " q"]:
    """Choose the channels on which classes are least alike and their texts vary most.

    For each channel,

        J = -similarity_weight · similarity + variance_weight · variance,

    where `similarity` is the mean product of the values of two members of different classes, over
    all ordered pairs, and the members of a class are its text and its keys; `variance` is that of
    the texts over the classes (unbiased). The mean over pairs needs no loop over them: with U_c the
    sum of the m_c members of class c, it is

        ((Σ_c U_c)² - Σ_c U_c²) / ((Σ_c m_c)² - Σ_c m_c²).

    Args:
        text: normalised class text features.
        count: how many channels to choose.
        similarity_weight: see above.
        variance_weight: see above.
        keys: normalised features of images; None: texts are the only members.
        label: their classes.

    Returns:
        The channels, the best first.
    """
    members = text.double()
    size = torch.ones(len(text), dtype=torch.float64, device=text.device)
    if keys is not None and label is not None:
        members = members.index_add(0, label, keys.double())
        size = size + torch.bincount(label, minlength=len(text))
    pairs = size.sum() ** 2 - (size**2).sum()
    similarity = (members.sum(dim=0) ** 2 - (members**2).sum(dim=0)) / pairs
    score = variance_weight * text.double().var(dim=0) - similarity_weight * similarity
    return score.topk(count).indices
