"""TaskRes: a residual on the text features (Yu et al., CVPR 2023)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.heads.base import Head


class TaskRes(Head):
    """Add what the task asks for to the text features, which stay as they are.

    With `f` the normalised global feature, `T̃` `[c, d]` the text features with the length that CLIP
    gave them, and the residual `R` `[c, d]`, all that is trained, which starts at 0 (section 3.2 of
    "Task Residual for Tuning Vision-Language Models"):

        logits = scale · f normalised(T̃ + alpha · R)ᵀ                                 [c]

    The length of T̃ decides how far a step of the training turns a classifier. The paper's enhanced
    base, text features of a projection that was trained on the dataset before, is not offered.
    """

    given = ("raw_text", "logit_scale")
    raw_text: Tensor

    def __init__(self, raw_text: Float[Tensor, "c d"], logit_scale: float, alpha: float) -> None:
        """Begin without a residual; `alpha`, other than 0, is its scaling factor."""
        super().__init__()
        self.register_buffer("raw_text", raw_text.clone())
        self.residual = nn.Parameter(torch.zeros_like(raw_text))
        self.logit_scale = logit_scale
        self.alpha = alpha

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        classifier = F.normalize(self.raw_text + self.alpha * self.residual, dim=-1)
        return self.logit_scale * F.normalize(global_features, dim=-1) @ classifier.T
