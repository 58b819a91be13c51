"""MTA: a robust mean shift over the crops of an image (Zanella & Ben Ayed, CVPR 2024)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.errors import UserError
from src.heads.base import Head

ITERATIONS = 5
NEAREST = 0.3
"""The share of the other crops that decides a crop's bandwidth."""


class Mta(Head):
    """Classify the mode of the density of an image's crops, of which some count more than others.

    With x_i the normalised features of an image's k crops, `T` `[c, d]` the text features,
    p_i = softmax(scale · x_i Tᵀ) and a_ij = p_i · p_j:

        h_i² = ½ mean of |x_i - x_j|² over the nearest 30 % of the other crops j, at least one
        K_i(m) = exp(-|x_i - m|² / (2 h_i²))
        y = softmax((K(m) + lambda_q · a y) / lambda_y)                              [k]
        m ← normalise(Σ_i y_i K_i(m) x_i / Σ_i y_i K_i(m))                           [d]
        logits = scale · m Tᵀ                                                        [c]

    The last two steps alternate `ITERATIONS` times, from m = x_0, the image as CLIP itself sees it,
    and equal y. This follows the paper's formulas as we know them, without the authors' code, and
    was not compared with their figures. Ours are the Gaussian form of K, that the nearest are taken
    among the other crops, the beginning, that every round updates y and m once, and that as many
    rounds are made for every image: an image's answer then depends on no other. Crops that are all
    equal have no bandwidth; it is bounded from below by the rounding of the features.
    """

    inputs = ("crops",)
    depth_maps = "refused"
    carries_over = True
    text: Tensor

    def __init__(
        self, text: Float[Tensor, "c d"], logit_scale: float, lambda_y: float, lambda_q: float
    ) -> None:
        """Keep the settings.

        Args:
            text: the classes' text features, of any length.
            logit_scale: the factor on cosine similarities.
            lambda_y: the weight of the entropy of y, above 0: the larger, the more alike crops
                count.
            lambda_q: the weight, from 0 up, of crops that are for the same classes.

        Raises:
            UserError: one of the two is out of range.
        """
        super().__init__()
        if not (lambda_y > 0 and lambda_q >= 0):
            raise UserError(
                f"method.head.lambda_y={lambda_y} must be above 0, and method.head.lambda_q="
                f"{lambda_q} 0 or more: correct them."
            )
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale, self.lambda_y, self.lambda_q = logit_scale, lambda_y, lambda_q

    def forward(self, crops: Float[Tensor, "n k d"]) -> Float[Tensor, "n c"]:
        x = F.normalize(crops, dim=-1)
        p = (self.logit_scale * x @ self.text.T).softmax(dim=-1)
        affinity = p @ p.mT
        near = max(1, int(NEAREST * (x.shape[1] - 1)))
        others = _squared_distance(x, x).sort(dim=-1).values[..., 1 : near + 1]
        # 2 h²; distances of unit vectors are known to a few units in the last place of 1
        bandwidth = others.mean(dim=-1, keepdim=True).clamp_min(8 * torch.finfo(x.dtype).eps)
        mode = x[:, :1]
        y = torch.full_like(bandwidth, 1 / x.shape[1])
        for _ in range(ITERATIONS):
            log_kernel = -_squared_distance(x, mode) / bandwidth
            evidence = log_kernel.exp() + self.lambda_q * affinity @ y
            log_y = (evidence / self.lambda_y).log_softmax(dim=1)
            y = log_y.exp()
            # In logarithms, the weights have a sum however far all crops are from the mode.
            weight = (log_kernel + log_y).softmax(dim=1)
            mode = F.normalize(weight.mT @ x, dim=-1)
        return self.logit_scale * mode.squeeze(1) @ self.text.T


def _squared_distance(
    rows: Float[Tensor, "n k d"], others: Float[Tensor, "n l d"]
) -> Float[Tensor, "n k l"]:
    """Compute the squared distances of unit vectors, 0 to 4."""
    return (2 - 2 * rows @ others.mT).clamp_min(0)
