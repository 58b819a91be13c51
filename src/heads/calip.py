"""CALIP: zero-shot enhancement of CLIP by parameter-free attention (Guo et al., AAAI 2023)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.errors import UserError
from src.heads.base import Head, in_passes

AFFINITIES_PER_CHUNK = 2**21
"""How many affinities are computed at once: enough to be fast, few enough for the cache."""
LARGEST_FACTOR = 40.0
"""The largest attention factor whose affinities have exponentials within float32."""
SHORTEST = 1e-12
"""Features that are shorter count as zero, as in torch's `normalize`."""


class Calip(Head):
    """Blends CLIP's logits with those of attended text and attended image features.

    With `f` the global, `F` `[s, d]` the spatial and `T` `[c, d]` the text features, all
    normalised, and the affinity `A = attention_factor · F Tᵀ` `[s, c]` (section 3.2; the factor is
    the release's):

        visual-guided text    T^a = softmax over s of A, transposed, times F     [c, d]
        text-guided visual    F^a = softmax over c of A, times T                 [s, d]
                              f^a = mean over s + maximum over s of F^a          [d]
        logits = scale · (f Tᵀ + beta2 · f (T^a)ᵀ + beta3 · f^a Tᵀ)              [c]

    SuS-X's re-implementation (Udandarao et al., ICCV 2023) is another method: its factor is 0.5, it
    normalises T^a and F^a, and it pools F^a through CLIP's attention pooling. An attention factor
    of 0.5 alone does not give its results.
    """

    carries_over = True
    inputs = ("global", "spatial")
    searched = ("beta2", "beta3")
    similarity_factors: tuple[str, ...] = ("attention_factor",)
    text: Tensor

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        attention_factor: float,
        beta2: float,
        beta3: float,
        bfloat16_attention: bool = False,
    ) -> None:
        """Keep the settings.

        Args:
            text: class text features.
            logit_scale: the factor on CLIP's similarities.
            attention_factor: the factor on the affinity, 40 at most.
            beta2: the weight of the visual-guided text features' logits.
            beta3: the weight of the text-guided visual features' logits.
            bfloat16_attention: compute the two large products, `F Tᵀ` and the one that gives F^a,
                in bfloat16: faster where the processor has units for it. It rounds what is
                attended to, never CLIP's own logits.

        Raises:
            UserError: the attention factor is larger.
        """
        super().__init__()
        if not abs(attention_factor) <= LARGEST_FACTOR:
            raise UserError(
                f"method.head.attention_factor={attention_factor}: give {LARGEST_FACTOR:g} at most "
                "(CALIP's is 2)."
            )
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.attention_factor = attention_factor
        self.beta2 = beta2
        self.beta3 = beta3
        self.bfloat16_attention = bfloat16_attention

    def terms(
        self, global_features: Float[Tensor, "n d"], spatial_features: Float[Tensor, "n s d"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"], Float[Tensor, "n c"]]:
        """Compute the three logits before blending: CLIP's, beta2's and beta3's."""
        global_features = F.normalize(global_features, dim=-1)
        images = max(1, AFFINITIES_PER_CHUNK // (spatial_features.shape[1] * len(self.text)))
        chunks = zip(
            in_passes(global_features, images), in_passes(spatial_features, images), strict=True
        )
        text_term, pooled = map(torch.cat, zip(*(self._attend(*c) for c in chunks), strict=True))
        return (
            self.logit_scale * global_features @ self.text.T,
            self.logit_scale * text_term,
            self.logit_scale * pooled @ self.text.T,
        )

    def _attend(
        self, global_features: Float[Tensor, "n d"], spatial_features: Float[Tensor, "n s d"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n d"]]:
        """Compute `f (T^a)ᵀ` and f^a, from a normalised `f` and spatial features of any length."""
        full = spatial_features.dtype
        dtype = torch.bfloat16 if self.bfloat16_attention else full
        text = self.text.to(dtype)
        length = spatial_features.norm(dim=-1, keepdim=True).clamp_min(SHORTEST)
        # Affinities are bounded, so both softmaxes are this exponential over its sums.
        weight = (spatial_features.to(dtype) @ text.T).to(full)
        weight.mul_(self.attention_factor / length).exp_()
        # f · T^a_c is the attention-weighted mean of f · F_s: no [c, d] features are needed.
        similarity = spatial_features @ global_features.unsqueeze(-1) / length
        both = torch.cat([similarity, torch.ones_like(similarity)], dim=2).mT @ weight
        attended = (weight.to(dtype) @ text).to(full).div_(weight.sum(dim=2, keepdim=True))
        return both[:, 0] / both[:, 1], attended.mean(dim=1) + attended.amax(dim=1)

    def attention(
        self, spatial_features: Float[Tensor, "n s d"]
    ) -> tuple[Float[Tensor, "n s c"], Float[Tensor, "n s c"]]:
        """Compute each class's attention over the positions, before and after blending.

        Before: what T^a is averaged with. After: the same attention between the blended features
        `T + beta2 · T^a` and `F + beta3 · F^a`, normalised; our reading of the paper's figure 1.
        Unlike `terms`, this holds `[n, c, d]` features: it is for a few images.

        Returns:
            both, each class's summing to 1 over the positions.
        """
        visual = F.normalize(spatial_features, dim=-1)
        attended_text, attended_visual = self._attended(visual)
        text = F.normalize(self.text + self.beta2 * attended_text, dim=-1)
        blended = F.normalize(visual + self.beta3 * attended_visual, dim=-1)
        return self._over_positions(visual, self.text), self._over_positions(blended, text)

    def _over_positions(
        self, visual: Float[Tensor, "n s d"], text: Float[Tensor, "*n c d"]
    ) -> Float[Tensor, "n s c"]:
        return (self.attention_factor * visual @ text.mT).softmax(dim=1)

    def _attended(
        self, visual: Float[Tensor, "n s d"]
    ) -> tuple[Float[Tensor, "n c d"], Float[Tensor, "n s d"]]:
        """Compute T^a and F^a."""
        over_classes = (self.attention_factor * visual @ self.text.T).softmax(dim=2)
        return self._over_positions(visual, self.text).mT @ visual, over_classes @ self.text

    def forward(
        self, global_features: Float[Tensor, "n d"], spatial_features: Float[Tensor, "n s d"]
    ) -> Float[Tensor, "n c"]:
        clip, text_term, visual_term = self.terms(global_features, spatial_features)
        return clip + self.beta2 * text_term + self.beta3 * visual_term

    def lines(
        self,
        beta2_values: Sequence[float],
        global_features: Float[Tensor, "n d"],
        spatial_features: Float[Tensor, "n s d"],
    ) -> Iterator[tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]]:
        """For each beta2, `(base, direction)` with logits = base + beta3 · direction."""
        clip, text_term, visual_term = self.terms(global_features, spatial_features)
        for beta2 in beta2_values:
            yield clip + beta2 * text_term, visual_term
