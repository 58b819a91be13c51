"""RLA: a regularised linear map of the image feature (Fahes et al., arXiv 2410.05270)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.errors import UserError
from src.heads.base import Head
from src.heads.support import Support


class RegularisedLinearAdapter(Head):
    """Turn the image feature by a linear map that stays near the identity.

    With `f` `[d]` the global feature as CLIP gives it, `T` `[c, d]` the normalised text features
    and the map `A = I + R` `[d, d]`, where `R`, all that is trained, starts at 0 (the Regularized
    Linear Adapter of "CLIP's Visual Embedding Projector is a Few-shot Cornucopia"):

        logits = scale · normalised(A f) Tᵀ                                           [c]
        loss = cross-entropy + ridge · |A - I|²,  the sum of the squares of R's elements

    A has no bias, so the length of f has no influence. By default ridge = 1 / K, with K the images
    of the support set's largest class: the fewer there are, the nearer A stays to the identity.
    """

    carries_over = True
    text: Tensor

    def __init__(
        self, text: Float[Tensor, "c d"], logit_scale: float, ridge: float | None = None
    ) -> None:
        """Begin with the identity.

        Args:
            text: class text features.
            logit_scale: the factor on cosine similarities.
            ridge: the weight of the regularisation, from 0 up; None: 1 / K.

        Raises:
            UserError: `ridge` is negative.
        """
        super().__init__()
        if ridge is not None and ridge < 0:
            raise UserError(f"method.head.ridge={ridge} is negative: give 0 or more, or null.")
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.residual = nn.Parameter(text.new_zeros(text.shape[1], text.shape[1]))
        self.logit_scale = logit_scale
        self.ridge = ridge

    def prepare(self, support: Support) -> None:
        """Count the images of the largest class, unless a ridge is given."""
        if self.ridge is None:
            self.ridge = 1 / int(torch.bincount(support.label).max())

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        mapped = global_features + F.linear(global_features, self.residual)
        return self.logit_scale * F.normalize(mapped, dim=-1) @ self.text.T

    def loss(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Add the regularisation to the cross-entropy.

        Raises:
            RuntimeError: there is no ridge, because `prepare` was not called.
        """
        if self.ridge is None:
            raise RuntimeError("the ridge is 1 / K: prepare the head with a support set first")
        return super().loss(logits, label) + self.ridge * self.residual.square().sum()
