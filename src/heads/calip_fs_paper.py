"""CALIP-FS as others describe it: a second reading of the paper (Guo et al., AAAI 2023).

The paper's text was not at hand, and its code was never released. A public re-implementation that
claims to follow section 3.3, and four others of the same shape, have the layers below, trained as
CoOp's context is. `src.heads.calip_fs` is our own reading, and compares the two.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.heads.calip import Calip


class CalipFSPaper(Calip):
    """CALIP whose attention has linear layers that both modalities share.

    With the normalised features `f`, `F` `[s, d]` and `T` `[c, d]` of `Calip`, and the layers Q, K,
    V and O, each `x Wᵀ + b` of width d, which are all that is trained:

        visual-guided text    T^a = O(softmax over s of Q(T) K(F)ᵀ / √d, times V(F))
        text-guided visual    F^a = O(softmax over c of Q(F) K(T)ᵀ / √d, times V(T))
                              f^a = mean over s + maximum over s of F^a
        logits = scale · (f Tᵀ + beta2 · f (T^a)ᵀ + beta3 · f^a Tᵀ)

    There is no residual, and the layers have torch's own initialisation: untrained, what is
    attended to has no meaning yet. As in CALIP, it is not normalised.
    """

    similarity_factors = ()  # its factor belongs to layers that are learned

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        beta2: float,
        beta3: float,
    ) -> None:
        """Draw the layers' weights from torch's global generator.

        Args:
            text: class text features.
            logit_scale: the factor on CLIP's similarities.
            beta2: the weight of the visual-guided text features' logits.
            beta3: the weight of the text-guided visual features' logits.
        """
        width = text.shape[1]
        super().__init__(text, logit_scale, width**-0.5, beta2, beta3)
        self.query, self.key, self.value, self.output = (
            nn.Linear(width, width, dtype=text.dtype) for _ in range(4)
        )

    def terms(
        self, global_features: Float[Tensor, "n d"], spatial_features: Float[Tensor, "n s d"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"], Float[Tensor, "n c"]]:
        """Compute the three logits before blending: CLIP's, beta2's and beta3's."""
        image = F.normalize(global_features, dim=-1)
        visual = F.normalize(spatial_features, dim=-1)
        over_positions, over_classes = self._weights(visual, self.text)
        # As f · O(x) = (f W) · x + f · b, no `[n, c, d]` features are needed.
        similarity = self.value(visual) @ (image @ self.output.weight).unsqueeze(-1)
        text_term = (over_positions * similarity).sum(dim=1)
        text_term = text_term + (image @ self.output.bias).unsqueeze(-1)
        attended = self.output(over_classes @ self.value(self.text))
        pooled = attended.mean(dim=1) + attended.amax(dim=1)
        return (
            self.logit_scale * image @ self.text.T,
            self.logit_scale * text_term,
            self.logit_scale * pooled @ self.text.T,
        )

    def _weights(
        self, visual: Float[Tensor, "n s d"], text: Float[Tensor, "*n c d"]
    ) -> tuple[Float[Tensor, "n s c"], Float[Tensor, "n s c"]]:
        """Compute the attention over the positions, and that over the classes."""
        to_text = self.attention_factor * self.key(visual) @ self.query(text).mT
        to_visual = self.attention_factor * self.query(visual) @ self.key(text).mT
        return to_text.softmax(dim=1), to_visual.softmax(dim=2)

    def _over_positions(
        self, visual: Float[Tensor, "n s d"], text: Float[Tensor, "*n c d"]
    ) -> Float[Tensor, "n s c"]:
        return self._weights(visual, text)[0]

    def _attended(
        self, visual: Float[Tensor, "n s d"]
    ) -> tuple[Float[Tensor, "n c d"], Float[Tensor, "n s d"]]:
        over_positions, over_classes = self._weights(visual, self.text)
        return (
            self.output(over_positions.mT @ self.value(visual)),
            self.output(over_classes @ self.value(self.text)),
        )
