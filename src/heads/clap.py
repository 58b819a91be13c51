"""ZS-LP and CLAP: a linear probe that starts from the text (Silva-Rodriguez et al., CVPR 2024)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.errors import UserError
from src.heads.base import Head
from src.heads.support import Support


class Clap(Head):
    """Train one prototype for each class, from its text feature on, and hold the good ones there.

    With `f` the normalised global feature, `T̃` `[c, d]` the text features with the length that CLIP
    gave them, and prototypes `W` `[c, d]`, all that is trained, which start at T̃ (sections 4 and 5
    of "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models"):

        logits = scale · f normalised(W)ᵀ                                              [c]
        loss = cross-entropy + mean over c of λ_c |W_c - T̃_c|²
        λ_c = mean over the samples f of class c of softmax(scale · f normalised(T̃)ᵀ)_c

    λ, from 0 to 1, is computed once, from all crops of the support set, each of which is a sample
    of its own: the better zero-shot CLIP knows a class, the less its prototype moves. ZS-LP is the
    same without this constraint. The length of T̃ decides how far a step of the training turns a
    prototype, because the gradient through the normalisation is inverse to it.

    Attributes:
        multiplier: `[c]`, λ, after `prepare`; 0 without the constraint.
    """

    given = ("raw_text", "logit_scale")
    needs_every_class = True
    raw_text: Tensor
    multiplier: Tensor

    def __init__(
        self, raw_text: Float[Tensor, "c d"], logit_scale: float, constraint: str = "l2"
    ) -> None:
        """Put the prototypes where they start.

        Args:
            raw_text: class text features, not normalised.
            logit_scale: the factor on cosine similarities.
            constraint: `l2`, CLAP, or `none`, ZS-LP.

        Raises:
            UserError: `constraint` is neither.
        """
        super().__init__()
        if constraint not in ("l2", "none"):
            raise UserError(f"method.head.constraint={constraint} is unknown: give l2 or none.")
        self.register_buffer("raw_text", raw_text.clone())
        self.register_buffer("multiplier", torch.zeros_like(raw_text[:, 0]))
        self.weight = nn.Parameter(raw_text.clone())
        self.logit_scale = logit_scale
        self.constraint = constraint

    def prepare(self, support: Support) -> None:
        """Ask zero-shot CLIP how probable the right answers are."""
        if self.constraint == "none":
            return
        label, crops = support.label, support.features["global"]
        text = F.normalize(self.raw_text, dim=-1)
        total = torch.zeros_like(self.multiplier)
        for crop in crops:  # one by one: 20 crops of ImageNet's support set make 1.3 GB of logits
            f = F.normalize(crop.to(text.dtype), dim=-1)
            own = (self.logit_scale * f @ text.T).softmax(dim=-1).gather(1, label[:, None])
            total.index_add_(0, label, own.squeeze(1))
        samples = len(crops) * torch.bincount(label, minlength=len(total))
        self.multiplier.copy_(total / samples)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        prototypes = F.normalize(self.weight, dim=-1)
        return self.logit_scale * F.normalize(global_features, dim=-1) @ prototypes.T

    def loss(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Add the constraint to the cross-entropy."""
        error = super().loss(logits, label)
        if self.constraint == "none":
            return error
        moved = (self.weight - self.raw_text).square().sum(dim=-1)
        return error + (self.multiplier * moved).mean()
