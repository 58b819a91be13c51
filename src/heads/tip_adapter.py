"""Tip-Adapter: a cache of the support set beside CLIP's classifier (Zhang et al., ECCV 2022)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.errors import UserError
from src.heads.base import Head
from src.heads.support import Support


class TipAdapter(Head):
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

    searched = ("alpha", "beta")
    affinity_factors = ("beta",)
    needs_every_class = True
    text: Tensor
    label: Tensor
    keys: nn.Parameter

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        alpha: float,
        beta: float,
        cache_size: int | None = None,
    ) -> None:
        """Keep the settings.

        Args:
            text: class text features.
            logit_scale: the factor on CLIP's similarities.
            alpha: the cache's share (residual ratio), from 0 up.
            beta: its sharpness, from 0 up.
            cache_size: keys per class, each the mean of as many support images as come out even
                (section 4.4); None: one key for each image.
        """
        super().__init__()
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.alpha = alpha
        self.beta = beta
        self.cache_size = cache_size

    def prepare(self, support: Support) -> None:
        """Make the cache: a key is the normalised mean of the raw features of an image's crops.

        Raises:
            UserError: a class has fewer images than `cache_size`.
        """
        views = support.features["global"]
        keys, label = F.normalize(views.mean(dim=0, dtype=self.text.dtype), dim=-1), support.label
        if self.cache_size is not None:
            keys, label = _merge(keys, label, self.cache_size)
        self.keys = nn.Parameter(keys.to(self.text.device))
        self.register_buffer("label", label.to(self.text.device))

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
        """Compute CLIP's logits and `K fᵀ - 1`: a key is a row, so that votes are added by rows."""
        global_features = F.normalize(global_features, dim=-1)
        clip = self.logit_scale * global_features @ self.text.T
        return clip, (self.keys @ global_features.T).sub_(1)

    def _votes(self, nearness: Float[Tensor, "n_s n"], beta: float) -> Float[Tensor, "n c"]:
        # This is the product with the one-hot V, without its n_s · c · n multiplications by 0. It
        # works in place: at ImageNet's size, allocating memory takes longer than the arithmetic.
        votes = nearness.new_zeros(len(self.text), nearness.shape[1])
        return votes.index_add_(0, self.label, (beta * nearness).exp_()).T


def _merge(
    keys: Float[Tensor, "n d"], label: Int[Tensor, " n"], per_class: int
) -> tuple[Float[Tensor, "m d"], Int[Tensor, " m"]]:
    """Average the keys of each class in `per_class` groups, and normalise the means."""
    images = torch.bincount(label)
    if not 1 <= per_class <= images.min():
        raise UserError(
            f"method.head.cache_size={per_class} is no number of keys that {images.min()} images "
            "per class can be merged into: give 1 to that many."
        )
    of_class = [keys[label == each] for each in range(len(images))]
    means = [group.mean(dim=0) for one in of_class for group in torch.tensor_split(one, per_class)]
    merged = torch.arange(len(images), device=label.device).repeat_interleave(per_class)
    return F.normalize(torch.stack(means), dim=-1), merged
