"""StatA: transduction that text features anchor (Zanella et al., CVPR 2025)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.errors import UserError
from src.heads.base import Head
from src.heads.transclip import (
    SMALLEST,
    TEMPERATURE,
    Classifier,
    over,
    queries_of,
    run_rounds,
    zero_shot,
)


class StatA(Head):
    """Fit `src.heads.transclip.TransClip`'s Gaussians less freely, the fewer images a class has.

    Each class has variances of its own, and both its mean and these stay near what the text says
    ("Realistic Test-Time Adaptation of Vision-Language Models"). With p, z and W as there:

        μ_c = T_c at first;  s = Σ_c Σ_i p_ic (x_i - T_c)² / n;  v_c = s at first               [d]
        10 times:
            ℓ_ic = -½ Σ_k ((x_ik - μ_ck)² / v_ck + log v_ck)
            5 times:  z = softmax(log p + ℓ / 50 + (W + Wᵀ) z / 6)      each from all z before
            β_c = n_c / (alpha + n_c), with n_c the number of images whose largest z is z_c
            μ_c = normalised (β_c · normalised mean of the x_i weighted by z_ic + (1 - β_c) T_c)
            v_c = β_c · mean of the (x_i - μ_c)² weighted by z_ic + (1 - β_c)(s + (T_c - μ_c)²)  [d]

    The softmax of the logits is z at the end. The authors' release takes s wrongly where there are
    more than 2,500 images; here it is as above. Ours is the least variance, `SMALLEST` / d.

    The rounds follow one another by nature; within a step all images are computed together.
    """

    carries_over = True  # nothing is learned: other classes have other texts
    sees = "set"
    text: Tensor

    def __init__(self, text: Float[Tensor, "c d"], logit_scale: float, alpha: float) -> None:
        """Keep the settings; `alpha`, above 0, is how many images the text of a class counts as.

        Raises:
            UserError: alpha is not above 0.
        """
        super().__init__()
        if alpha <= 0:
            raise UserError(f"method.head.alpha={alpha} is not above 0.")
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.alpha = alpha

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Classify all images, with memory for three `[n, c]` and `[n, d]` beyond them."""
        queries = queries_of(global_features)
        x, centre, graph = queries
        n, d = x.shape
        prior = self.logit_scale * self.text
        z = zero_shot(queries, prior)
        to_text = self.text - centre
        pulled = (to_text * (z.sum(dim=0).unsqueeze(1) * to_text - 2 * (z.T @ x))).sum(dim=0)
        shared = (x.square().sum(dim=0) + pulled) / n
        terms = torch.cat([x, x.square()], dim=1)

        def classifier(mean: Float[Tensor, "c d"], variance: Float[Tensor, "... d"]) -> Classifier:
            variance = variance.clamp_min(SMALLEST / d)
            away, precision = mean - centre, 1 / (TEMPERATURE * variance)
            weight = torch.cat([prior + away * precision, (-0.5 * precision).expand_as(mean)], 1)
            log_volume = variance.log() / TEMPERATURE
            return weight, prior @ centre - 0.5 * (away.square() * precision + log_volume).sum(1)

        def refit(z: Float[Tensor, "n c"]) -> Classifier:
            first, second = over(z.T @ terms, z.sum(dim=0)).chunk(2, dim=1)
            predicted = torch.bincount(z.argmax(dim=1), minlength=z.shape[1]).to(x)
            free = (predicted / (self.alpha + predicted)).unsqueeze(1)
            mean = free * F.normalize(centre + first, dim=-1) + (1 - free) * self.text
            mean = F.normalize(mean, dim=-1)
            away = mean - centre
            own = second + away * (away - 2 * first)
            anchored = shared + (self.text - mean).square()
            return classifier(mean, free * own + (1 - free) * anchored)

        return run_rounds(terms, graph, z, classifier(self.text, shared), refit)
