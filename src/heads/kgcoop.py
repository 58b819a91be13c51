"""KgCoOp: knowledge-guided context optimization (Yao et al., CVPR 2023)."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from src.heads.coop import CoOp


class KgCoOp(CoOp):
    """CoOp whose class texts stay near those of the hand-made prompts.

    The logits are CoOp's. With `t_c` the text feature of class c under the learned context, `r_c`
    that of the dataset's own prompts, and w the weight, training minimises

        cross-entropy + w · (1 - mean over c of cos(t_c, r_c))

    as in the authors' release, where `r_c` comes from one prompt for each class.
    """

    given = ("text_tower", "class_names", "logit_scale", "text")
    reference: Tensor

    def __init__(
        self,
        text_tower: Any,
        class_names: Sequence[str],
        logit_scale: float,
        text: Float[Tensor, "c d"],
        n_context: int,
        initial_words: str | None,
        weight: float,
    ) -> None:
        """Make the context as `LearnedContext` does, with its arguments and errors.

        Args:
            text_tower: the frozen text tower.
            class_names: the names of the classes.
            logit_scale: the factor on cosine similarities.
            text: the class text features of the dataset's own prompts.
            n_context: the number of learned vectors.
            initial_words: what they are at first; None: they are drawn.
            weight: w, from 0 (CoOp) up.
        """
        super().__init__(text_tower, class_names, logit_scale, n_context, initial_words)
        self.register_buffer("reference", F.normalize(text, dim=-1))
        self.weight = weight
        self._latest: Tensor | None = None  # text features of a training step, until its loss

    def class_text(self) -> Float[Tensor, "c d"]:
        text = super().class_text()
        self._latest = text if self.training else None
        return text

    def loss(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compute the cross-entropy and, weighted, how far the texts are from the hand-made ones.

        The texts are those that the logits were computed with, as the tower is most of the work.
        """
        text = self.class_text() if self._latest is None else self._latest
        self._latest = None
        nearness = F.cosine_similarity(text, self.reference, dim=-1)
        return super().loss(logits, label) + self.weight * (1 - nearness.mean())
