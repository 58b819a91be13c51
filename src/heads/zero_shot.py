"""CLIP's zero-shot classifier (Radford et al., ICML 2021, section 3.1)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.heads.base import Head


class ZeroShot(Head):
    """`logit_scale · f Tᵀ`, the cosine similarity of image and class text."""

    carries_over = True
    text: Tensor

    def __init__(self, text: Float[Tensor, "c d"], logit_scale: float) -> None:
        """Keep the normalised text features of the classes, and the scale (100 for OpenAI's)."""
        super().__init__()
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return self.logit_scale * F.normalize(global_features, dim=-1) @ self.text.T
