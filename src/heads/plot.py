"""PLOT: prompt learning with optimal transport (Chen et al., ICLR 2023)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.errors import UserError
from src.heads.base import in_passes
from src.heads.coop import LearnedContext

ITERATIONS = 100
TOLERANCE = 1e-2
"""Sinkhorn's: as in the authors' release, which stops when `u` changes by less, on average."""

LEAST_REGULARISATION = 0.03
"""Below it, exp(-2 / regularisation) and its inverse leave the range of float32."""

COMPARED_PER_PASS = 1 << 21
"""How many similarities of positions and prompts are matched at once, which bounds the memory."""


class Plot(LearnedContext):
    """Match the positions of an image with several learned prompts of a class by transport.

    With `F` `[s, d]` the spatial features of an image and `T_c` `[k, d]` the text features of class
    c under k learned contexts, all normalised, and ε the regularisation:

        S_c = F T_cᵀ                                                        [s, k]
        P_c = argmin of Σ P ⊙ (1 - S_c) - ε · entropy of P, over P with
              row sums 1 / s and column sums 1 / k                          [s, k]
        logits_c = scale · Σ P_c ⊙ S_c

    P is Sinkhorn's: diag(u) exp(-(1 - S) / ε) diag(v), where u and v are set in turns so that the
    rows and the columns sum to what they must. No gradient passes through P.

    The release stops when u changes by less than 0.01 on average over all images and classes of a
    batch; here each image and class stops by itself, so that no prediction depends on others. For
    ImageNet the authors added the logits of global features, a line that their released code has
    commented out; here it is left out, too.
    """

    inputs = ("spatial",)

    def __init__(
        self,
        text_tower: Any,
        class_names: Sequence[str],
        logit_scale: float,
        n_prompts: int,
        n_context: int,
        regularisation: float,
    ) -> None:
        """Draw the contexts from torch's global generator.

        Args:
            text_tower: the frozen text tower, as for `LearnedContext`.
            class_names: the names of the classes.
            logit_scale: the factor on cosine similarities.
            n_prompts: k, the prompts of a class.
            n_context: the number of learned vectors of each.
            regularisation: ε, from 0.03 up; the smaller, the sharper the matching.

        Raises:
            UserError: there are no prompts, the regularisation is too small for float32, or as
                `LearnedContext`.
        """
        if n_prompts < 1:
            raise UserError(f"method.head.n_prompts={n_prompts}: give 1 or more.")
        if regularisation < LEAST_REGULARISATION:
            raise UserError(
                f"method.head.regularisation={regularisation} is too small for float32: give "
                f"{LEAST_REGULARISATION} or more."
            )
        super().__init__(text_tower, class_names, logit_scale, n_context, texts_per_class=n_prompts)
        self.regularisation = regularisation

    def forward(self, spatial_features: Float[Tensor, "n s d"]) -> Float[Tensor, "n c"]:
        text = self.class_text()
        spatial = F.normalize(spatial_features, dim=-1)
        compared = spatial.shape[1] * text.shape[0] * text.shape[1]
        parts = in_passes(spatial, max(1, COMPARED_PER_PASS // compared))
        return self.logit_scale * torch.cat([self._matched(part, text) for part in parts])

    def _matched(
        self, spatial: Float[Tensor, "n s d"], text: Float[Tensor, "k c d"]
    ) -> Float[Tensor, "n c"]:
        similarity = spatial @ text.flatten(end_dim=1).T
        similarity = similarity.view(*spatial.shape[:2], *text.shape[:2])
        plan = transport(similarity.detach(), self.regularisation)
        return (plan * similarity).sum(dim=(1, 2))


@torch.no_grad()
def transport(
    similarity: Float[Tensor, "n s k c"], regularisation: float
) -> Float[Tensor, "n s k c"]:
    """Compute the plan of each image and class, whose entries sum to 1.

    Its column sums are 1 / k; its row sums come near 1 / s, in `ITERATIONS` at most.
    """
    n, s, k, c = similarity.shape
    kernel = ((similarity - 1) / regularisation).exp_()

    def balance(u: Tensor, v: Tensor, changing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = (1 / s) / (kernel * v.unsqueeze(1)).sum(dim=2)
        columns = (1 / k) / (kernel * rows.unsqueeze(2)).sum(dim=1)
        change = (rows - u).abs().mean(dim=1)
        u = torch.where(changing.unsqueeze(1), rows, u)
        v = torch.where(changing.unsqueeze(1), columns, v)
        return u, v, changing & (change >= TOLERANCE)

    changing = kernel.new_ones(n, c, dtype=torch.bool)
    u, v, _ = _repeat(balance, kernel.new_ones(n, s, c), kernel.new_ones(n, k, c), changing)
    return u.unsqueeze(2) * kernel * v.unsqueeze(1)


def _repeat(
    step: Callable[..., tuple[Tensor, Tensor, Tensor]], u: Tensor, v: Tensor, changing: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Take `ITERATIONS` steps at most, until nothing changes any more."""
    if torch.compiler.is_exporting():  # A graph would hold as many copies of a loop of Python's.
        from torch._higher_order_ops.while_loop import while_loop

        _, u, v, changing = while_loop(  # type: ignore[no-untyped-call]
            lambda taken, u, v, changing: (taken < ITERATIONS) & changing.any(),
            lambda taken, *state: (taken + 1, *step(*state)),
            (torch.zeros((), dtype=torch.int64), u, v, changing),
        )
        return u, v, changing
    for _ in range(ITERATIONS):
        u, v, changing = step(u, v, changing)
        if not changing.any():
            break
    return u, v, changing
