"""APE-T: a trained residual of texts and keys on chosen channels (Zhu et al., ICCV 2023)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.heads.ape import choose_channels, share_of_channels
from src.heads.base import Head
from src.heads.support import Support


class ApeT(Head):
    """Move each class's text and keys together on chosen channels, and weigh the keys.

    With `f` the global and `T` `[c, d]` the text features, both normalised, the keys `K`
    `[n_s, d]` and the one-hot labels `L` `[n_s, c]` of the n_s support images, as in `Ape`, and
    the Q channels that `choose_channels` takes from the texts alone (section 3.3; as in the
    authors' release):

        T̂_c = T_c + r_c,  K̂_i = K_i + r_(class of i),  r [c, Q], 0 on the other channels
        logits = scale · f T̂ᵀ + alpha · exp(-beta · (1 - f K̂ᵀ)) (v ∘ L)                 [c]

    The residual r, 0 at first, and the weights v `[n_s]`, 1 at first, are trained. T̂ and K̂ are not
    normalised again.

    The release chooses as many channels here as for APE, whatever the configuration says of APE-T,
    and stops where the two differ. Here as many are chosen as the configuration says.

    Attributes:
        channels: int64 `[q]`.
        residual: `[c, q]`, r.
        keys: `[n_s, d]`, K, after `prepare`.
        value: `[n_s]`, v, after `prepare`.
        label: int64 `[n_s]`, after `prepare`.
    """

    searched = ("alpha", "beta")
    affinity_factors = ("beta",)
    needs_every_class = True
    text: Tensor
    channels: Tensor
    keys: Tensor
    label: Tensor
    value: nn.Parameter

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        alpha: float,
        beta: float,
        channels: int,
        similarity_weight: float,
        variance_weight: float,
    ) -> None:
        """Choose the channels; the settings are those of `Ape`.

        Raises:
            UserError: `channels` is not from 1 to 1,024.
        """
        super().__init__()
        self.register_buffer("text", F.normalize(text, dim=-1))
        count = share_of_channels(channels, text.shape[1])
        chosen = choose_channels(self.text, count, similarity_weight, variance_weight)
        self.register_buffer("channels", chosen)
        self.residual = nn.Parameter(torch.zeros_like(self.text[:, chosen]))
        self.logit_scale = logit_scale
        self.alpha = alpha
        self.beta = beta

    def prepare(self, support: Support) -> None:
        """Make the cache: a key is the normalised mean of the raw features of an image's crops."""
        views = support.features["global"]
        keys = F.normalize(views.mean(dim=0, dtype=self.text.dtype), dim=-1).to(self.text.device)
        self.register_buffer("keys", keys)
        self.register_buffer("label", support.label.to(keys.device))
        self.value = nn.Parameter(torch.ones_like(keys[:, 0]))

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        clip, nearness = self._compare(global_features)
        return clip + self.alpha * self._votes(nearness, self.beta)

    def lines(
        self, beta_values: Sequence[float], global_features: Float[Tensor, "n d"]
    ) -> Iterator[tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]]:
        """For each beta, `(base, direction)` with logits = base + alpha · direction."""
        clip, nearness = self._compare(global_features)
        for beta in beta_values:
            yield clip, self._votes(nearness, beta)

    def _compare(
        self, global_features: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n_s n"]]:
        """Compute CLIP's logits with T̂, and `K̂ fᵀ - 1`."""
        f = F.normalize(global_features, dim=-1)
        # The residual moves the similarity to all of a class's keys as much as that to its text.
        moved = f[:, self.channels] @ self.residual.T
        clip = self.logit_scale * (f @ self.text.T + moved)
        return clip, self.keys @ f.T + moved.T[self.label] - 1

    def _votes(self, nearness: Float[Tensor, "n_s n"], beta: float) -> Float[Tensor, "n c"]:
        affinity = self.value.unsqueeze(1) * (beta * nearness).exp()
        votes = nearness.new_zeros(len(self.text), nearness.shape[1])
        return votes.index_add(0, self.label, affinity).T
