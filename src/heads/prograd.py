"""ProGrad: prompt-aligned gradient for prompt tuning (Zhu et al., ICCV 2023)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from src.errors import UserError
from src.heads.coop import CoOp


class ProGrad(CoOp):
    """CoOp whose steps do not work against what CLIP knows.

    The logits are CoOp's. With z the zero-shot logits of the dataset's own prompts, the temperature
    τ and the gradients with respect to the context

        g_a  of the cross-entropy
        g_b  of -τ² · mean over images of Σ_c softmax(z / τ)_c · log softmax(logits / τ)_c

    (that of the Kullback-Leibler divergence from the zero-shot predictions), training goes down

        g = g_a                                        if g_a · g_b ≥ 0
        g = g_a - projection · (g_a · g_b) / |g_b|² · g_b     otherwise

    as in the authors' release. Their initial context is the dataset's template: its words in front
    of the class name, and before them zeros, up to 16 vectors.
    """

    given = ("text_tower", "class_names", "logit_scale", "text")
    zero_shot_text: Tensor

    def __init__(
        self,
        text_tower: Any,
        class_names: Sequence[str],
        logit_scale: float,
        text: Float[Tensor, "c d"],
        n_context: int,
        initial_words: str | None,
        projection: float,
        temperature: float,
    ) -> None:
        """Make the context as `LearnedContext` does, with its arguments and errors.

        Args:
            text_tower: the frozen text tower.
            class_names: the names of the classes.
            logit_scale: the factor on cosine similarities.
            text: the class text features of the dataset's own prompts.
            n_context: the number of learned vectors.
            initial_words: what they are at first; None: they are drawn.
            projection: how much of a conflict is taken away, λ in the release: 0, which is CoOp,
                to 1.
            temperature: τ, above 0.

        Raises:
            UserError: the temperature is not positive.
        """
        super().__init__(text_tower, class_names, logit_scale, n_context, initial_words)
        if temperature <= 0:
            raise UserError(f"method.head.temperature={temperature}: give a number above 0.")
        self.register_buffer("zero_shot_text", F.normalize(text, dim=-1))
        self.projection = projection
        self.temperature = temperature

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Compute CoOp's logits `[n, c]`; in training with the zero-shot ones behind, `[n, 2c]`.

        So `loss` has both of them for the same images, also where the logits of several depth maps
        have been summed in between.
        """
        logits = super().forward(global_features)
        if not self.training:
            return logits
        similarity = F.normalize(global_features, dim=-1) @ self.zero_shot_text.T
        return torch.cat([logits, self.logit_scale * similarity], dim=1)

    def loss(self, logits: Float[Tensor, "n k"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compute the cross-entropy; in training, its gradient is the projected g.

        The two backward passes through the text tower are made here. What is returned leads back to
        the context itself, not through the tower again.
        """
        if not self.training:
            return super().loss(logits, label)
        learned, zero_shot = logits.chunk(2, dim=1)
        task = super().loss(learned, label)
        known = (zero_shot / self.temperature).softmax(dim=1)
        log_learned = (learned / self.temperature).log_softmax(dim=1)
        knowledge = -(known * log_learned).sum(dim=1).mean() * self.temperature**2
        (of_knowledge,) = torch.autograd.grad(knowledge, self.context, retain_graph=True)
        (of_task,) = torch.autograd.grad(task, self.context)
        agreement = (of_task * of_knowledge).sum()
        if agreement < 0:
            share = self.projection * agreement / of_knowledge.square().sum()
            of_task = of_task - share * of_knowledge
        linear = (self.context * of_task).sum()  # its gradient is g
        return task.detach() + linear - linear.detach()
