"""Few-shot TransCLIP: labelled images beside the unlabelled ones (Zanella et al., NeurIPS 2024)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from src.errors import UserError
from src.heads.base import Head
from src.heads.support import Support
from src.heads.transclip import TEMPERATURE, Queries, Shots, queries_of, transduce

STRENGTH = 0.5
"""The factor on CLIP's log-probabilities, λ in the paper."""
GAMMAS = (0.002, 0.01, 0.02, 0.2)
"""The weights that the validation images choose among."""
ROWS = 512
"""Validation images that are compared with all queries at a time."""


class TransClipFs(Head):
    """Fit `src.heads.transclip.TransClip`'s Gaussians to the support set as well.

    With the s images of the support set, each the normalised mean of the raw features of its crops,
    the differences are ("Boosting Vision-Language Models with Transduction"):

        μ_c at first: the normalised sum of the support images of class c
        z = softmax(½ log p + ℓ / 50 + (W + Wᵀ) z / 6)
        μ_c = normalised mean of the x_i, each of weight z_ic / n, and of the support images of
              class c, each of weight 50 gamma / s
        v = mean of (x - μ_c)² over queries and support images, of the same weights            [d]

    gamma is one of `GAMMAS`. Each validation image takes the answer of the query nearest to it, the
    first of equally near ones; chosen is the gamma that is right for most of them, the first of
    equally good ones. That needs the queries: it happens in `forward`, once for each gamma.

    Attributes:
        keys: `[s, d]`, after `prepare`.
        label: int64 `[s]`, after `prepare`.
    """

    searched = ("gamma",)
    sees = "set"
    depth_maps = "refused"  # a validation image has one nearest query
    needs_every_class = True
    text: Tensor
    keys: Tensor
    label: Tensor

    def __init__(self, text: Float[Tensor, "c d"], logit_scale: float, gamma: float) -> None:
        """Keep the settings.

        Args:
            text: class text features.
            logit_scale: the factor on CLIP's similarities.
            gamma: the support images' weight, from 0 up, where no validation images choose it.

        Raises:
            UserError: gamma is below 0.
        """
        super().__init__()
        if gamma < 0:
            raise UserError(f"method.head.gamma={gamma} is below 0.")
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.gamma = gamma
        self._validation: tuple[Tensor, Tensor] | None = None

    def prepare(self, support: Support) -> None:
        """Keep the support images."""
        mean = support.features["global"].mean(dim=0, dtype=self.text.dtype)
        self.register_buffer("keys", F.normalize(mean, dim=-1).to(self.text.device))
        self.register_buffer("label", support.label.to(self.text.device))

    def validate_on(self, features: dict[str, Tensor], label: Int[Tensor, " v"]) -> None:
        """Keep the validation images, which choose gamma in every `forward` from now on.

        Args:
            features: `global`, `[v, d]`.
            label: the class of each.
        """
        self._validation = features["global"], label

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Classify all images, with memory for five `[n, c]` and one `[n, d]` beyond them."""
        queries = queries_of(global_features)
        if self._validation is None:
            return self._logits(queries, self.gamma)
        images, label = self._validation[0], self._validation[1].to(self.text.device)
        parts = [  # neither their length nor the queries' centre changes which query is nearest
            (rows.to(queries.centred) @ queries.centred.T).argmax(dim=1)
            for rows in torch.split(images, ROWS)
        ]
        near = torch.cat(parts)
        best, kept = -1, None
        for gamma in GAMMAS:
            logits = self._logits(queries, gamma)
            right = int((logits[near].argmax(dim=1) == label).sum())
            if right > best:
                best, kept, self.gamma = right, logits, gamma
        assert kept is not None
        return kept

    def _logits(self, queries: Queries, gamma: float) -> Float[Tensor, "n c"]:
        shots = Shots(self.keys, self.label, TEMPERATURE * gamma)
        return transduce(queries, self.logit_scale * self.text, STRENGTH, shots)
