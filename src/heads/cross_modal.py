"""Cross-modal linear probe: prompts as further training examples (Lin et al., CVPR 2023)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.errors import UserError
from src.heads.base import Head


class CrossModal(Head):
    """Train a linear classifier on image features and on the text features of single prompts.

    With `f` `[d]` the global feature and `W` `[c, d]`, all that is trained, which starts at the
    normalised class text features `T` and is not normalised again ("Multimodality Helps
    Unimodality: Cross-Modal Few-Shot Learning with Multimodal Models", as in the authors' release):

        logits = scale · normalised(f) Wᵀ                                             [c]

    A step of training sees as many prompts as images. With `p_j` `[d]` the text feature of a single
    prompt, an example of the class that it was written for, and logits of it as of an image:

        loss = ½ cross-entropy of the n images + ½ cross-entropy of n prompts

    The prompts come in the order of shuffles that follow one another, so that each is seen as often
    as any other. Evaluation has the weights of WiSE-FT (Wortsman et al., CVPR 2022), between those
    that were trained and those that they started from:

        W' = wise_ft · W + (1 - wise_ft) · T
    """

    given: ClassVar[tuple[str, ...]] = ("text", "prompt_text", "prompt_label", "logit_scale")
    text: Tensor
    prompt_text: Tensor
    prompt_label: Tensor

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        prompt_text: Float[Tensor, "p d"],
        prompt_label: Int[Tensor, " p"],
        logit_scale: float,
        wise_ft: float,
    ) -> None:
        """Begin with the text, and draw the seed of the prompts' order from the global generator.

        Args:
            text: class text features.
            prompt_text: the feature of each prompt.
            prompt_label: the class of each prompt.
            logit_scale: the factor on cosine similarities.
            wise_ft: the share of the trained weights, from 0 (plain CLIP) to 1 (no averaging).

        Raises:
            UserError: `wise_ft` is not from 0 to 1.
        """
        super().__init__()
        if not 0 <= wise_ft <= 1:
            raise UserError(f"method.head.wise_ft={wise_ft} is not from 0 to 1.")
        self.register_buffer("text", F.normalize(text, dim=-1))
        # Only training sees the prompts: a checkpoint can do without them.
        self.register_buffer("prompt_text", F.normalize(prompt_text, dim=-1), persistent=False)
        self.register_buffer("prompt_label", prompt_label.clone(), persistent=False)
        self.weight = nn.Parameter(self.text.clone())
        self.logit_scale = logit_scale
        self.wise_ft = wise_ft
        # A generator of its own: validation between epochs takes numbers from the global one.
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        self._next_prompts = torch.empty(0, dtype=torch.int64)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        weight = self.weight if self.training else self._averaged()
        return self._logits(F.normalize(global_features, dim=-1), weight)

    def loss(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compute the cross-entropy of the images and, in training, of as many prompts."""
        of_images = super().loss(logits, label)
        if not self.training:
            return of_images
        drawn = self._draw(len(label)).to(label.device)
        prompts = self._logits(self.prompt_text[drawn], self.weight)
        return (of_images + super().loss(prompts, self.prompt_label[drawn])) / 2

    def _averaged(self) -> Float[Tensor, "c d"]:
        return torch.lerp(self.text, self.weight, self.wise_ft)

    def _logits(
        self, unit_features: Float[Tensor, "n d"], weight: Float[Tensor, "c d"]
    ) -> Float[Tensor, "n c"]:
        return self.logit_scale * unit_features @ weight.T

    def _draw(self, n: int) -> Int[Tensor, " n"]:
        """Take the next `n` prompts, shuffling all of them again whenever they run out."""
        while len(self._next_prompts) < n:
            shuffled = torch.randperm(len(self.prompt_label), generator=self._generator)
            self._next_prompts = torch.cat([self._next_prompts, shuffled])
        drawn, self._next_prompts = self._next_prompts[:n], self._next_prompts[n:]
        return drawn
