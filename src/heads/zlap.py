"""ZLaP: labels that spread from texts over a graph of images (Stojnić et al., CVPR 2024)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from src.errors import UserError, require_integer
from src.heads.base import Head
from src.heads.neighbours import nearest

CLASSES = 256
"""Classes whose labels are spread at a time: 52 MB a step with ImageNet's 50,000 images."""


class Zlap(Head):
    """Spread each class's label from its text over the nearest neighbours of images.

    With the normalised text features T of c classes and the normalised global features x of the n
    images of a call, all of them nodes of one graph ("Label Propagation for Zero-shot
    Classification with Vision-Language Models", sections 3.2 and 4; details as in the authors'
    release):

        V_ij = max(x_i · x_j, 0), where x_j is one of the k nearest images of x_i, itself counted
        V_ij = max(x_i · T_j, 0)^gamma, where T_j is one of the k nearest texts of x_i
        W = V + Vᵀ without its diagonal;  Ŵ = D^-½ W D^-½, where D = row sums of W
        s_c = (I - alpha Ŵ)⁻¹ e_c, where e_c is 1 at the text of class c                   [n + c]
        logits_ic = log(s_c at x_i / sum over classes of s at x_i)                             [c]

    An image has itself among its k neighbours and loses it with the diagonal: it has k - 1 others.
    Shares below the smallest normal number of the dtype are raised to it, and an image that no text
    reaches has equal shares.

    The release solves each class by up to 50 steps of conjugate gradients, to 1e-6 of e_c. Here all
    classes are solved together by the Neumann series, the sum of (alpha Ŵ)^t e_c over t, which
    never gives a negative score. Ŵ has no eigenvalue beyond 1, so what is left out is at most
    alpha^t / (1 - alpha); the series ends where that is below the dtype's precision, after 15 terms
    in float32 with the release's alpha.

    Attributes:
        text: `[c, d]`, T.
    """

    sees = "set"
    carries_over = True  # nothing is learned: other classes have other texts
    given = ("text",)
    text: Tensor

    def __init__(
        self, text: Float[Tensor, "c d"], neighbours: int, gamma: float, alpha: float
    ) -> None:
        """Keep the settings.

        Args:
            text: class text features.
            neighbours: how many images and how many texts an image is joined to, from 1 up; itself
                counts as one of the images.
            gamma: how much weaker than those of images the edges of texts are, from 0 up: the power
                of their similarities.
            alpha: how far labels spread, from 0 up and below 1.

        Raises:
            UserError: the number of neighbours or alpha is out of its range.
        """
        super().__init__()
        require_integer("method.head.neighbours", neighbours, least=1)
        if not 0 <= alpha < 1:
            raise UserError(f"method.head.alpha={alpha} is not within 0 <= alpha < 1.")
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.neighbours = neighbours
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        image, text = F.normalize(global_features, dim=-1), self.text
        graph = self._graph(image)
        score = image.new_empty(len(image), len(text))
        for start in range(0, len(text), CLASSES):
            some = score[:, start : start + CLASSES]
            some.copy_(self._spread(graph, start, some.shape[1])[len(text) :])
        score.masked_fill_(score.sum(dim=1, keepdim=True) <= 0, 1)
        score /= score.sum(dim=1, keepdim=True)
        return score.clamp_min_(torch.finfo(score.dtype).tiny).log_()

    def _graph(self, image: Float[Tensor, "n d"]) -> "Graph":
        """Make Ŵ, whose first nodes are the texts and whose others are the images."""
        n, c = len(image), len(self.text)
        to_image, near_image = nearest(image, self.neighbours - 1)
        to_text, near_text = (image @ self.text.T).topk(min(self.neighbours, c), dim=1)
        weight = torch.cat([to_image.clamp_min(0), to_text.clamp_min(0) ** self.gamma], dim=1)
        column = torch.cat([near_image + c, near_text], dim=1).flatten()
        row = torch.arange(c, c + n, device=image.device).repeat_interleave(weight.shape[1])
        return Graph(row, column, weight.flatten(), n + c)

    def _spread(self, graph: "Graph", start: int, count: int) -> Float[Tensor, "m k"]:
        """Compute the scores of `count` classes from `start` at all nodes."""
        seed = torch.eye(count, dtype=graph.weight.dtype, device=graph.weight.device)
        score = graph.weight.new_zeros(graph.size, count)
        score[start : start + count] = seed
        for _ in range(_terms(self.alpha, graph.weight.dtype)):
            score = graph.times(score).mul_(self.alpha)
            score[start : start + count] += seed
        return score


class Graph:
    """A symmetric matrix of few edges, normalised by the square roots of its row sums.

    Attributes:
        size: the number of nodes, m.
        begin: int64 `[m + 1]`, where the edges of each node begin, and their number.
        column: int64 `[e]`, the other end of each edge.
        weight: `[e]`, above or equal to 0.
    """

    def __init__(
        self, row: Int[Tensor, " e"], column: Int[Tensor, " e"], weight: Float[Tensor, " e"], m: int
    ) -> None:
        """Take V of the edges, of which none joins a node to itself, and make Ŵ of V + Vᵀ."""
        rows, order = torch.cat([row, column]).sort(stable=True)
        self.size = m
        self.column = torch.cat([column, row])[order]
        weight = weight.repeat(2)[order]
        degree = weight.new_zeros(m).index_add_(0, rows, weight)
        scale = degree.where(degree > 0, 1).rsqrt()
        self.weight = weight * scale[rows] * scale[self.column]
        self.begin = F.pad(torch.bincount(rows, minlength=m).cumsum(0), (1, 0))

    def times(self, dense: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
        """Multiply by the matrix.

        A weighted sum of a bag of rows for each node is what torch has for it on every device and
        with several threads; its product of a sparse matrix takes two to three times as long.
        """
        return F.embedding_bag(
            self.column,
            dense,
            self.begin,
            mode="sum",
            per_sample_weights=self.weight,
            include_last_offset=True,
        )


def _terms(alpha: float, dtype: torch.dtype) -> int:
    """Count the terms of the Neumann series, after the first, for the precision of the dtype."""
    if alpha == 0:
        return 0
    return math.ceil(math.log(torch.finfo(dtype).eps * (1 - alpha)) / math.log(alpha))
