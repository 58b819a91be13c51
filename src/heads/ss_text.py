"""SS-Text: sums of images drawn to the text, in closed form (Silva-Rodríguez et al., IPMI 2025)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.heads.base import Head
from src.heads.support import Support

LEAST_PULL = 1e-3
"""The least weight of the text, in the release."""


class SsText(Head):
    """Classify by vectors between the sum of a class's images and its text.

    With `T̃` `[c, d]` the text features as CLIP gives them, not normalised, and `x_i` the normalised
    features of the N support images (the mean of the raw features of an image's crops), N_c of them
    of class c ("Full Conformal Adaptation of Medical Vision-Language Models", IPMI 2025, for
    SS-Text; "Towards a Realistic Few-Shot Adaptation of Medical Vision-Language Models",
    MICCAI 2025, for SS-Text+; both as in the authors' release):

        M_c = scale · sum of the x_i of class c                                          [d]
        W_c = M_c / (N λ_c) + T̃_c                                                        [d]
        logits = scale · f normalised(W)ᵀ,  f the normalised global feature              [c]

    SS-Text has λ_c = max(1/N, 0.001) for all classes. SS-Text+ has λ_c = max(1/N_c, 0.001), so that
    few images of a class weigh less, and then pushes the classes apart:

        W_c ← W_c - normalised(2 W_c - mean of all W)

    A class without images keeps its text: W_c = T̃_c, before the classes are pushed apart.

    The methods come from medical models. With OpenAI's CLIP the images outweigh the text, all the
    more the shorter T̃ is, and the accuracy can fall below zero-shot.

    Attributes:
        weight: `[c, d]`, W, after `prepare`; T̃ before.
    """

    given = ("raw_text", "logit_scale")
    raw_text: Tensor
    weight: Tensor

    def __init__(
        self, raw_text: Float[Tensor, "c d"], logit_scale: float, plus: bool = False
    ) -> None:
        """Start from the text; `plus` says whether it is SS-Text+."""
        super().__init__()
        self.register_buffer("raw_text", raw_text)
        self.register_buffer("weight", raw_text.clone())
        self.logit_scale = logit_scale
        self.plus = plus

    def prepare(self, support: Support) -> None:
        """Compute the classes' vectors."""
        views = support.features["global"]
        x = F.normalize(views.mean(dim=0, dtype=self.weight.dtype), dim=-1).to(self.weight.device)
        label = support.label.to(x.device)
        images = torch.zeros_like(self.weight).index_add_(0, label, self.logit_scale * x)
        count = torch.bincount(label, minlength=len(images)).to(x)
        # Where there is no image, the sum is 0 and its factor does not matter.
        pull = (1 / count.clamp(min=1) if self.plus else torch.full_like(count, 1 / len(x))).clamp(
            min=LEAST_PULL
        )
        weight = images / (len(x) * pull).unsqueeze(-1) + self.raw_text
        if self.plus:
            weight = weight - F.normalize(2 * weight - weight.mean(dim=0), dim=-1)
        self.weight.copy_(weight)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        directions = F.normalize(self.weight, dim=-1)
        return self.logit_scale * F.normalize(global_features, dim=-1) @ directions.T
