"""TransCLIP: all images classified together, by a Gaussian mixture (Zanella et al., NeurIPS 2024).

Also what `src.heads.transclip_fs` and `src.heads.stata` share with it. All three are written from
the equations alone, because the licence of the authors' code is not this project's.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from src.heads.base import Head
from src.heads.neighbours import nearest

TEMPERATURE = 50.0
"""What the Gaussians' log-likelihoods are divided by."""
ROUNDS, STEPS = 10, 5
"""How often the Gaussians are fitted, and the steps of the shares between two fits."""
NEIGHBOURS = 3
"""How many neighbours of an image pull at its shares."""
CONFIDENT = 8
"""How many images a class's first mean is of."""
SMALLEST = 1e-4
"""The least variance of a dimension, times their number: ours, for images that are all alike."""
ROWS = 2048
"""Images whose shares are computed at a time: 8 MB with 1,000 classes, within a cache."""

Classifier = tuple[Float[Tensor, "c f"], Float[Tensor, " c"]]
"""A weight and a bias, from terms of an image to the classes."""


class TransClip(Head):
    """Assign images to classes by CLIP, by Gaussians fitted to all of them, and by neighbours.

    With the n images' features `x` and the text features `T` `[c, d]`, all normalised ("Boosting
    Vision-Language Models with Transduction"; constants as in the authors' release):

        p = softmax(scale · x Tᵀ)                                                       [n, c]
        W_ij = x_i · x_j where j is among the 3 nearest other images of i, 0 elsewhere  [n, n]
        z = p;  μ_c = normalised mean, weighted by z_c, of its 8 most confident images;  v = 1/d

        10 times:
            ℓ_ic = -½ Σ_k (x_ik - μ_ck)² / v_k
            5 times:  z = softmax(log p + ℓ / 50 + (W + Wᵀ) z / 6)     each from all z before
            μ_c = normalised mean of the x_i, weighted by z_ic
            v = Σ_c Σ_i z_ic (x_i - μ_c)² / n                                           [d]

    The softmax of the logits is z at the end. The classes are taken to be about equally frequent:
    nothing in the fit holds a rare class back from images of a frequent one. Ours are the least
    variance, `SMALLEST` / d, and the mean of a class that has no share in any image: that of all.

    The rounds follow one another by nature; within a step all images are computed together.
    """

    carries_over = True  # nothing is learned: other classes have other texts
    sees = "set"
    text: Tensor

    def __init__(self, text: Float[Tensor, "c d"], logit_scale: float) -> None:
        super().__init__()
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Classify all images, with memory for three `[n, c]` and one `[n, d]` beyond them."""
        queries = queries_of(global_features)
        return transduce(queries, self.logit_scale * self.text)


class Shots(NamedTuple):
    """Labelled images, and what they weigh beside the queries.

    Attributes:
        keys: `[s, d]`, normalised.
        label: int64 `[s]`.
        weight: of all of them together, where the queries together have 1.
    """

    keys: Float[Tensor, "s d"]
    label: Int[Tensor, " s"]
    weight: float


class Graph(NamedTuple):
    """(W + Wᵀ) / (2 · `NEIGHBOURS`) of the queries, row after row.

    Attributes:
        column: int64 `[e]`, of each entry; a pair that is neighbours both ways has two.
        value: `[e]`.
        offset: int64 `[n + 1]`, where each row's entries begin.
    """

    column: Int[Tensor, " e"]
    value: Float[Tensor, " e"]
    offset: Int[Tensor, " m"]


class Queries(NamedTuple):
    """The images to be classified together.

    Attributes:
        centred: `[n, d]`, normalised features less their mean, so that squares lose no digits.
        centre: `[d]`, that mean.
        graph: their neighbours.
    """

    centred: Float[Tensor, "n d"]
    centre: Float[Tensor, " d"]
    graph: Graph


def queries_of(global_features: Float[Tensor, "n d"]) -> Queries:
    """Normalise and centre the images' features, and find the neighbours."""
    x = F.normalize(global_features, dim=-1)
    similarity, index = nearest(x, NEIGHBOURS)
    centre = x.mean(dim=0)
    x -= centre
    own = torch.arange(len(x), device=x.device).unsqueeze(1).expand_as(index).flatten()
    row, column = torch.cat([own, index.flatten()]), torch.cat([index.flatten(), own])
    order = row.argsort(stable=True)
    value = (similarity / (2 * NEIGHBOURS)).flatten().repeat(2)
    offset = row.new_zeros(len(x) + 1)
    offset[1:] = torch.bincount(row, minlength=len(x)).cumsum(dim=0)
    return Queries(x, centre, Graph(column[order], value[order], offset))


def zero_shot(queries: Queries, prior: Float[Tensor, "c d"]) -> Float[Tensor, "n c"]:
    """Compute CLIP's probabilities; `prior` is the text features times the logit scale."""
    return torch.addmm(prior @ queries.centre, queries.centred, prior.T).softmax(dim=-1)


def transduce(
    queries: Queries,
    prior: Float[Tensor, "c d"],
    strength: float = 1.0,
    shots: Shots | None = None,
) -> Float[Tensor, "n c"]:
    """Compute TransCLIP's log z.

    What the Gaussians say of an image, less what it says of all classes alike, is linear in the
    image's feature, as log p is: one matrix product gives both, from the classifier of `refit`.

    Args:
        queries: the images.
        prior: the text features times the logit scale.
        strength: the factor on log p, λ in the paper.
        shots: labelled images, if any: the first means are theirs, and each fit is to them as well.
    """
    x, centre, _ = queries
    n, d = x.shape
    z = zero_shot(queries, prior)
    squared = x.square().sum(dim=0) / n
    if shots is None:
        mean = _confident_means(z, queries)
    else:
        mean = F.normalize(
            prior.new_zeros(prior.shape).index_add_(0, shots.label, shots.keys), dim=-1
        )

    def classifier(mean: Float[Tensor, "c d"], variance: Float[Tensor, " d"]) -> Classifier:
        away = mean - centre
        scaled = away / (TEMPERATURE * variance)
        weight = strength * prior + scaled
        return weight, strength * prior @ centre - 0.5 * (scaled * away).sum(dim=1)

    def refit(z: Float[Tensor, "n c"]) -> Classifier:
        count, sums = z.sum(dim=0) / n, z.T @ x / n
        all_count, all_sums = count, sums
        if shots is not None:
            each = shots.weight / len(shots.keys)
            of_class = torch.bincount(shots.label, minlength=len(prior))
            all_count = count + each * of_class
            all_sums = sums.index_add(0, shots.label, shots.keys - centre, alpha=each)
        mean = F.normalize(centre + over(all_sums, all_count), dim=-1)
        away = mean - centre
        spread = squared + (away * (count.unsqueeze(1) * away - 2 * sums)).sum(dim=0)
        if shots is not None:
            spread += each * (shots.keys - mean[shots.label]).square().sum(dim=0)
            spread /= 1 + shots.weight
        return classifier(mean, spread.clamp_min(SMALLEST / d))

    first = classifier(mean, x.new_full((d,), 1 / d))
    return run_rounds(x, queries.graph, z, first, refit)


def run_rounds(
    terms: Float[Tensor, "n f"],
    graph: Graph,
    z: Float[Tensor, "n c"],
    classifier: Classifier,
    refit: Callable[[Float[Tensor, "n c"]], Classifier],
) -> Float[Tensor, "n c"]:
    """Alternate between shares of classes in images and a classifier; return the last log z.

    Args:
        terms: what the classifier is linear in.
        graph: the pull of the images on one another.
        z: the first shares; they are overwritten.
        classifier: the first one, for `log p + ℓ / TEMPERATURE` but for a constant of each image.
        refit: makes the next one from the shares.
    """
    fixed, other = torch.empty_like(z), torch.empty_like(z)
    for number in range(ROUNDS):
        if number > 0:
            classifier = refit(z)
        weight, bias = classifier
        torch.addmm(bias, terms, weight.T, out=fixed)
        for step in range(STEPS):
            last = number == ROUNDS - 1 and step == STEPS - 1
            _step(graph, fixed, z, torch.log_softmax if last else torch.softmax, out=other)
            z, other = other, z
    return z


def _step(
    graph: Graph,
    fixed: Float[Tensor, "n c"],
    z: Float[Tensor, "n c"],
    normalize: Callable[..., Tensor],
    out: Float[Tensor, "n c"],
) -> None:
    """Compute the next shares, a block of images at a time."""
    for start in range(0, len(z), ROWS):
        stop = min(start + ROWS, len(z))
        offset = graph.offset[start : stop + 1]
        entries = slice(int(offset[0]), int(offset[-1]))
        pulled = F.embedding_bag(  # a product of sparse rows with a dense matrix
            graph.column[entries],
            z,
            offset - offset[0],
            mode="sum",
            per_sample_weights=graph.value[entries],
            include_last_offset=True,
        )
        pulled += fixed[start:stop]
        normalize(pulled, -1, out=out[start:stop])


def _confident_means(z: Float[Tensor, "n c"], queries: Queries) -> Float[Tensor, "c d"]:
    share, index = z.T.topk(min(CONFIDENT, len(z)), dim=1)
    share = share / share[:, :1].clamp_min(torch.finfo(z.dtype).tiny)
    away = torch.stack([w @ queries.centred[i] for w, i in zip(share, index, strict=True)])
    return F.normalize(over(away, share.sum(dim=1)) + queries.centre, dim=-1)


def over(sums: Float[Tensor, "c f"], count: Float[Tensor, " c"]) -> Float[Tensor, "c f"]:
    """Divide sums by counts; where a count is 0, so that nothing becomes infinite."""
    return sums / count.unsqueeze(1).clamp_min(torch.finfo(count.dtype).tiny)
