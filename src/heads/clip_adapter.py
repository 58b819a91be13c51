"""CLIP-Adapter: a residual bottleneck on the image feature (Gao et al., IJCV 2024)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.errors import UserError
from src.heads.base import Head

REDUCTION = 4
"""How many times as wide as the bottleneck the features are."""


class ClipAdapter(Head):
    """Blend the image feature with what a small trained network makes of it.

    With `f` `[d]` the global feature as CLIP gives it, not normalised, `T` `[c, d]` the normalised
    text features and r the residual ratio (section 3.2; no biases, as in the authors' release):

        adapter(f) = relu(W2 relu(W1 f)),  W1 [d/4, d],  W2 [d, d/4]              [d]
        logits = scale · normalised(r · adapter(f) + (1 - r) · f) Tᵀ              [c]

    The adapter, all that is trained, starts from torch's default initialisation of linear layers,
    as the release's does: the global seed decides it.
    """

    carries_over = True
    text: Tensor

    def __init__(
        self, text: Float[Tensor, "c d"], logit_scale: float, residual_ratio: float
    ) -> None:
        """Draw the adapter's weights.

        Raises:
            UserError: `residual_ratio` is not from 0 (plain CLIP) to 1.
        """
        super().__init__()
        if not 0 <= residual_ratio <= 1:
            raise UserError(f"method.head.residual_ratio={residual_ratio} is not from 0 to 1.")
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.residual_ratio = residual_ratio
        width = text.shape[1]
        self.adapter = nn.Sequential(
            nn.Linear(width, width // REDUCTION, bias=False),
            nn.ReLU(),
            nn.Linear(width // REDUCTION, width, bias=False),
            nn.ReLU(),
        )

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        adapted = self.adapter(global_features)
        blended = self.residual_ratio * adapted + (1 - self.residual_ratio) * global_features
        return self.logit_scale * F.normalize(blended, dim=-1) @ self.text.T
