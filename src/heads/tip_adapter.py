"""Tip-Adapter: a cache of the support set beside CLIP's classifier (Zhang et al., ECCV 2022)."""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.heads.support import Support, require_every_class


class TipAdapter(nn.Module):
    """Add to CLIP's logits the support images' votes, weighted by their affinity to the image.

    With `f` the global and `T` `[c, d]` the text features, both normalised, the keys `K`
    `[n_s, d]` and the one-hot labels `V` `[n_s, c]` of the n_s support images (sections 3.1, 3.2):

        logits = scale · f Tᵀ + alpha · exp(-beta · (1 - f Kᵀ)) V                [c]

    Training-free Tip-Adapter leaves the keys as `prepare` makes them; Tip-Adapter-F trains them,
    all that is trained, and does not normalise them again (as in the authors' release).

    Attributes:
        keys: `[n_s, d]`, after `prepare`.
        label: int64 `[n_s]`, after `prepare`.
    """

    inputs = ("global",)
    text: Tensor
    label: Tensor
    keys: nn.Parameter

    def __init__(
        self, text: Float[Tensor, "c d"], logit_scale: float, alpha: float, beta: float
    ) -> None:
        """Keep the settings: `alpha`, the cache's share, and `beta`, its sharpness, from 0 up."""
        super().__init__()
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.alpha = alpha
        self.beta = beta

    def prepare(self, support: Support) -> None:
        """Make the cache: a key is the normalised mean over an image's views of raw features.

        Raises:
            UserError: a class has no support image.
        """
        require_every_class(support.label, len(self.text))
        views = support.features["global"]
        keys = F.normalize(views.mean(dim=0, dtype=self.text.dtype), dim=-1)
        self.keys = nn.Parameter(keys.to(self.text.device))
        self.register_buffer("label", support.label.to(self.text.device))

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
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n n_s"]]:
        """Compute CLIP's logits and `f Kᵀ - 1`."""
        global_features = F.normalize(global_features, dim=-1)
        clip = self.logit_scale * global_features @ self.text.T
        return clip, global_features @ self.keys.T - 1

    def _votes(self, nearness: Float[Tensor, "n n_s"], beta: float) -> Float[Tensor, "n c"]:
        # The product with the one-hot V, without its n_s · c · n multiplications by 0.
        votes = nearness.new_zeros(len(nearness), len(self.text))
        return votes.index_add(1, self.label, (beta * nearness).exp())
