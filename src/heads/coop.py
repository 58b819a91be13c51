"""CoOp: learning to prompt for vision-language models (Zhou et al., IJCV 2022)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

CONTEXT_STD = 0.02


class CoOp(nn.Module):
    """Zero-shot CLIP with a learned context in place of "a photo of a" (section 3.2).

    The text of class c is `<start> V_1 ... V_m {class name}. <end>`. The m vectors V are the only
    parameters, shared by all classes (the paper's unified context, class token at the end), drawn
    from N(0, 0.02²). With `t_c` the normalised text feature of class c, `T` `[c, d]`:

        logits = scale · f Tᵀ

    In evaluation mode the text features are computed once for a given context, without gradient.
    """

    inputs = ("global",)
    learns_context = True
    start: Tensor
    suffixes: Tensor
    ends: Tensor

    def __init__(
        self,
        tower: nn.Module,
        embeddings: Float[Tensor, "c l w"],
        ends: Int[Tensor, " c"],
        logit_scale: float,
        n_context: int,
    ) -> None:
        """Draw the context from torch's global generator.

        Args:
            tower: the frozen text tower: token embeddings that all classes begin with `[p, w]`,
                those of each class's rest `[c, s, w]`, and `ends` to text features `[c, d]`.
            embeddings: token embeddings of every class's prompt; those at positions 1 to
                `n_context` are placeholders.
            ends: where in its prompt each class has its end token.
            logit_scale: the factor on cosine similarities.
            n_context: the number of learned vectors.
        """
        super().__init__()
        self._tower = (tower,)  # in a tuple, for a submodule's weights would be the head's own
        self.register_buffer("start", embeddings[0, :1].clone(), persistent=False)
        self.register_buffer("suffixes", embeddings[:, 1 + n_context :].clone(), persistent=False)
        self.register_buffer("ends", ends, persistent=False)
        self.context = nn.Parameter(torch.empty(n_context, embeddings.shape[-1]))
        nn.init.normal_(self.context, std=CONTEXT_STD)
        self.logit_scale = logit_scale
        self.n_context = n_context
        self._cached: tuple[Tensor, Tensor] | None = None  # a context and its text features

    def text(self) -> Float[Tensor, "c d"]:
        """Compute the normalised text features of the present context."""
        prefix = torch.cat([self.start, self.context])
        return F.normalize(self._tower[0](prefix, self.suffixes, self.ends), dim=-1)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        text = self.text() if self.training else self._text_once()
        return self.logit_scale * F.normalize(global_features, dim=-1) @ text.T

    @torch.no_grad()
    def _text_once(self) -> Float[Tensor, "c d"]:
        if self._cached is None or not torch.equal(self._cached[0], self.context):
            self._cached = self.context.clone(), self.text()
        return self._cached[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "CoOp":
        """Move the tower along, to another device or dtype."""
        self._tower[0]._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        self._cached = None
        return super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
