"""LP++: a linear probe with weights for the text (Huang, Shakeri et al., CVPR 2024)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.heads.base import Head
from src.heads.support import Support

START = 250.0
"""The release's factor of the text weights that training starts from."""


class LPPlusPlus(Head):
    """Add a linear probe of the image to the text's logits, each class's with a weight of its own.

    With `f` the normalised global feature, `T` `[c, d]` the normalised text features, and `W`
    `[c, d]`, `b` `[c]` and `α` `[c]`, all of which are trained (section 3 of "LP++: A Surprisingly
    Strong Linear Probe for Few-Shot CLIP"):

        logits = f Wᵀ + b + α ⊙ (f Tᵀ) = f (W + α T)ᵀ + b                             [c]

    There is no logit scale: α plays its part. Where training starts and how fast it goes, the N
    normalised features x_i of the support images say, the first crop of each, with `X` `[n, d]`
    their rows:

        W_c = sum of the x_i of class c,  b uniform in ±1 / sqrt(d), as torch draws it
        α_c = 250 · mean over classes of the mean of x_i · T_c over the images of class c
        rate of W and b = 4N / λ_max(Xᵀ X),  of α = N / (4 max over c of Σ_i (x_i · T_c)²)

    `src.methods.lp_plus_plus` trains it with these rates.

    Attributes:
        weight_rate: the learning rate of W and b, after `prepare`.
        alpha_rate: the learning rate of α, after `prepare`.
    """

    given = ("text",)
    needs_every_class = True
    depth_maps = "refused"
    text: Tensor
    weight_rate: float
    alpha_rate: float

    def __init__(self, text: Float[Tensor, "c d"]) -> None:
        """Draw the bias from torch's global generator; `text` are class text features."""
        super().__init__()
        classes, width = text.shape
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.weight = nn.Parameter(torch.zeros_like(text))
        self.bias = nn.Parameter(text.new_empty(classes).uniform_(-1, 1) / math.sqrt(width))
        self.alpha = nn.Parameter(text.new_zeros(classes))

    @torch.no_grad()
    def prepare(self, support: Support) -> None:
        """Compute where training starts, and its rates."""
        label, text = support.label, self.text
        x = F.normalize(support.features["global"][0].to(text.dtype), dim=-1)
        self.weight.zero_().index_add_(0, label, x)
        similarity = x @ text.T
        own = similarity.gather(1, label[:, None]).squeeze(1)
        of_class = torch.zeros_like(self.alpha).index_add_(0, label, own) / label.bincount()
        self.alpha.fill_(START * of_class.mean())
        largest = torch.linalg.eigvalsh((x.T @ x).double())[-1]
        self.weight_rate = 4 * len(x) / float(largest)
        self.alpha_rate = len(x) / (4 * float(similarity.square_().sum(dim=0).max()))

    def classifier(self) -> Float[Tensor, "c d"]:
        """Compute W + α T: one product with the features instead of two."""
        return torch.addcmul(self.weight, self.alpha[:, None], self.text)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return F.linear(F.normalize(global_features, dim=-1), self.classifier(), self.bias)
