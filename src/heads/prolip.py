"""ProLIP: fine-tuning CLIP's last linear layer (Fahes et al., arXiv 2410.05270)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.errors import UserError
from src.heads.base import Head
from src.heads.support import Support


class ProLip(Head):
    """Train the layer that takes CLIP's image feature into the joint space, near where it was.

    With `x` `[w]` what the image tower's last linear layer takes, `W₀` `[w, d]` and `b` `[d]` that
    layer's weight and bias (0 for vision transformers) and `T` `[c, d]` the normalised text
    features ("CLIP's Visual Embedding Projector is a Few-shot Cornucopia"):

        f = x W + b                                                                   [d]
        logits = scale · normalised(f) Tᵀ                                             [c]
        loss = cross-entropy + ridge · |W - W₀|²,  the sum of the squares of all elements

    W, all that is trained, starts at W₀. By default ridge = 1 / K, with K the images of the support
    set's largest class, as in the authors' release without validation: the fewer there are, the
    nearer W stays to CLIP's.
    """

    carries_over = True
    inputs = ("unprojected",)
    given: ClassVar[tuple[str, ...]] = ("text", "logit_scale", "projection", "projection_bias")
    text: Tensor
    start: Tensor
    bias: Tensor

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        projection: Float[Tensor, "w d"],
        projection_bias: Float[Tensor, " d"],
        ridge: float | None = None,
    ) -> None:
        """Begin with CLIP's layer.

        Args:
            text: class text features.
            logit_scale: the factor on cosine similarities.
            projection: the layer's weight, W₀.
            projection_bias: its bias, b.
            ridge: the weight of the regularisation, from 0 up; None: 1 / K.

        Raises:
            UserError: `ridge` is negative.
        """
        super().__init__()
        if ridge is not None and ridge < 0:
            raise UserError(f"method.head.ridge={ridge} is negative: give 0 or more, or null.")
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.register_buffer("start", projection.clone(), persistent=False)  # for the loss alone
        self.register_buffer("bias", projection_bias.clone())
        self.weight = nn.Parameter(projection.clone())
        self.logit_scale = logit_scale
        self.ridge = ridge

    def prepare(self, support: Support) -> None:
        """Count the images of the largest class, unless a ridge is given."""
        if self.ridge is None:
            self.ridge = 1 / int(torch.bincount(support.label).max())

    def forward(self, unprojected: Float[Tensor, "n w"]) -> Float[Tensor, "n c"]:
        features = F.normalize(unprojected @ self.weight + self.bias, dim=-1)
        return self.logit_scale * features @ self.text.T

    def loss(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Add the regularisation to the cross-entropy.

        Raises:
            RuntimeError: there is no ridge, because `prepare` was not called.
        """
        if self.ridge is None:
            raise RuntimeError("the ridge is 1 / K: prepare the head with a support set first")
        distance = (self.weight - self.start).square().sum()
        return super().loss(logits, label) + self.ridge * distance
