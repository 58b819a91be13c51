"""The mean similarity to a class's prompts (DCLIP, Menon and Vondrick, ICLR 2023, equation 1)."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from src.heads.base import Head


class MeanSimilarity(Head):
    """Score a class by the mean cosine similarity of the image to each of its prompts.

    With `f` the normalised global feature and u_p `[d]` the normalised features of the n_c prompts
    of class c:

        logits_c = scale · 1/n_c Σ_p f · u_p = scale · f · T_c,   T_c = 1/n_c Σ_p u_p     [c]

    T_c is not normalised again, unlike the text features of all other methods: a class whose
    prompts agree has a longer one.
    """

    carries_over = True
    given = ("prompt_text", "prompt_label", "logit_scale")
    text: Tensor

    def __init__(
        self,
        prompt_text: Float[Tensor, "p d"],
        prompt_label: Int[Tensor, " p"],
        logit_scale: float,
    ) -> None:
        """Average the normalised features of each class's prompts; every class has one or more."""
        super().__init__()
        one_hot = F.one_hot(prompt_label).to(prompt_text.dtype)
        sums = one_hot.T @ F.normalize(prompt_text, dim=-1)
        self.register_buffer("text", sums / one_hot.sum(dim=0).unsqueeze(-1))
        self.logit_scale = logit_scale

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return self.logit_scale * F.normalize(global_features, dim=-1) @ self.text.T
