"""CoOp: learning to prompt for vision-language models (Zhou et al., IJCV 2022)."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.errors import UserError
from src.heads.base import Head

CONTEXT_STD = 0.02


class LearnedContext(Head):
    """A head whose class texts begin with learned vectors; subclasses define `forward`.

    The text of class c is `<start> V_1 ... V_m {class name}. <end>`. The m vectors V are the only
    parameters, shared by all classes. They are drawn from N(0, 0.02²), or are the token embeddings
    of words behind as many zeros as are left.

    Attributes:
        context: V `[m, w]`, in the space of token embeddings; `[k, m, w]` if each class has k
            texts.
    """

    carries_over = True
    given: ClassVar[tuple[str, ...]] = ("text_tower", "class_names", "logit_scale")
    frozen = ("text_tower",)
    text: Tensor
    start: Tensor
    suffixes: Tensor
    ends: Tensor

    def __init__(
        self,
        text_tower: Any,
        class_names: Sequence[str],
        logit_scale: float,
        n_context: int,
        initial_words: str | None = None,
        texts_per_class: int | None = None,
    ) -> None:
        """Draw the context from torch's global generator, or take it from words.

        Args:
            text_tower: the frozen text tower. Its `embed(class_names, n_context)` gives the token
                embeddings of every class's prompt `[c, l, w]`, in which those at positions 1 to
                `n_context` are placeholders, and where in its prompt each class has its end token.
                Its `embed_words(words)` gives those of words `[m, w]`.
                Called with the token embeddings that all classes begin with `[p, w]` or
                `[k, p, w]`, those of each class's rest `[c, s, w]`, and these ends, it computes
                text features `[c, d]` or `[k, c, d]`.
            class_names: the names of the classes.
            logit_scale: the factor on cosine similarities.
            n_context: m, the number of learned vectors of a text.
            initial_words: what the context is at first; None: it is drawn.
            texts_per_class: k, each with a context of its own; None: one text, and V `[m, w]`.

        Raises:
            UserError: `n_context` is not positive, or a class is too long for the tower with it; or
                the words have more tokens than that, or are not known.
        """
        super().__init__()
        self.text_tower = text_tower
        embeddings, ends = text_tower.embed(class_names, n_context)
        self.register_buffer("start", embeddings[0, :1].clone(), persistent=False)
        self.register_buffer("suffixes", embeddings[:, 1 + n_context :].clone(), persistent=False)
        self.register_buffer("ends", ends, persistent=False)
        several = () if texts_per_class is None else (texts_per_class,)
        context = embeddings.new_zeros(*several, n_context, embeddings.shape[-1])
        if initial_words is None:
            nn.init.normal_(context, std=CONTEXT_STD)
        else:
            words = text_tower.embed_words(initial_words)
            if len(words) > n_context:
                raise UserError(
                    f"method.head.initial_words={initial_words!r} has {len(words)} tokens, and "
                    f"there are only method.head.n_context={n_context} vectors: give fewer words "
                    "or a higher n_context."
                )
            context[..., n_context - len(words) :, :] = words
        self.context = nn.Parameter(context)
        self.logit_scale = logit_scale
        self._cached: tuple[Tensor, Tensor] | None = None  # a context and its text features
        self._folded = False

    def class_text(self) -> Float[Tensor, "*k c d"]:
        """Give the normalised text features of the present context.

        In training they are computed with a gradient; in evaluation mode without one, and only once
        for a given context.
        """
        if self._folded:
            return self.text
        return self._computed() if self.training else self._text_once()

    def fold(self) -> None:
        """Keep the text features in place of the context and of the text tower."""
        self.register_buffer("text", self.eval().class_text())
        self.text_tower = nn.Identity()
        for name in ("context", "start", "suffixes", "ends"):
            delattr(self, name)
        self._cached, self._folded = None, True

    def _computed(self) -> Float[Tensor, "*k c d"]:
        start = self.start.expand(*self.context.shape[:-2], -1, -1)
        prefix = torch.cat([start, self.context], dim=-2)
        return F.normalize(self.text_tower(prefix, self.suffixes, self.ends), dim=-1)

    @torch.no_grad()
    def _text_once(self) -> Float[Tensor, "*k c d"]:
        if self._cached is None or not torch.equal(self._cached[0], self.context):
            self._cached = self.context.clone(), self._computed()
        return self._cached[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "LearnedContext":
        """Move to another device or dtype, where the cached text features do not belong."""
        self._cached = None
        return super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]


class CoOp(LearnedContext):
    """Zero-shot CLIP with a learned context in place of "a photo of a" (section 3.2).

    The paper's unified context, class token at the end: one context for all classes. With `t_c` the
    normalised text feature of class c, `T` `[c, d]`:

        logits = scale · f Tᵀ
    """

    def __init__(
        self,
        text_tower: Any,
        class_names: Sequence[str],
        logit_scale: float,
        n_context: int,
        initial_words: str | None = None,
    ) -> None:
        """Make the context as `LearnedContext` does, with the same arguments and errors."""
        super().__init__(text_tower, class_names, logit_scale, n_context, initial_words)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return self.logit_scale * F.normalize(global_features, dim=-1) @ self.class_text().T
