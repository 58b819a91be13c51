"""CoOp: learning to prompt for vision-language models (Zhou et al., IJCV 2022)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.heads.base import Head

CONTEXT_STD = 0.02


class CoOp(Head):
    """Zero-shot CLIP with a learned context in place of "a photo of a" (section 3.2).

    The text of class c is `<start> V_1 ... V_m {class name}. <end>`. The m vectors V are the only
    parameters, shared by all classes (the paper's unified context, class token at the end), drawn
    from N(0, 0.02²). With `t_c` the normalised text feature of class c, `T` `[c, d]`:

        logits = scale · f Tᵀ

    In evaluation mode the text features are computed once for a given context, without gradient.
    """

    given = ("text_tower", "class_names", "logit_scale")
    frozen = ("text_tower",)
    start: Tensor
    suffixes: Tensor
    ends: Tensor

    def __init__(
        self, text_tower: Any, class_names: Sequence[str], logit_scale: float, n_context: int
    ) -> None:
        """Draw the context from torch's global generator.

        Args:
            text_tower: the frozen text tower. Its `embed(class_names, n_context)` gives the token
                embeddings of every class's prompt `[c, l, w]`, in which those at positions 1 to
                `n_context` are placeholders, and where in its prompt each class has its end token.
                Called with the token embeddings that all classes begin with `[p, w]`, those of each
                class's rest `[c, s, w]`, and these ends, it computes text features `[c, d]`.
            class_names: the names of the classes.
            logit_scale: the factor on cosine similarities.
            n_context: the number of learned vectors.

        Raises:
            UserError: `n_context` is not positive, or a class is too long for the tower with it.
        """
        super().__init__()
        self.text_tower = text_tower
        embeddings, ends = text_tower.embed(class_names, n_context)
        self.register_buffer("start", embeddings[0, :1].clone(), persistent=False)
        self.register_buffer("suffixes", embeddings[:, 1 + n_context :].clone(), persistent=False)
        self.register_buffer("ends", ends, persistent=False)
        self.context = nn.Parameter(torch.empty(n_context, embeddings.shape[-1]))
        nn.init.normal_(self.context, std=CONTEXT_STD)
        self.logit_scale = logit_scale
        self._cached: tuple[Tensor, Tensor] | None = None  # a context and its text features

    def text(self) -> Float[Tensor, "c d"]:
        """Compute the normalised text features of the present context."""
        prefix = torch.cat([self.start, self.context])
        return F.normalize(self.text_tower(prefix, self.suffixes, self.ends), dim=-1)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        text = self.text() if self.training else self._text_once()
        return self.logit_scale * F.normalize(global_features, dim=-1) @ text.T

    @torch.no_grad()
    def _text_once(self) -> Float[Tensor, "c d"]:
        if self._cached is None or not torch.equal(self._cached[0], self.context):
            self._cached = self.context.clone(), self.text()
        return self._cached[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "CoOp":
        """Move to another device or dtype, where the cached text features do not belong."""
        self._cached = None
        return super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
