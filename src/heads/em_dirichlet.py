"""EM-Dirichlet: images clustered by CLIP's probabilities (Martin et al., CVPR 2024)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from src.errors import UserError, require_integer
from src.heads.base import Head

ROWS = 4_096
"""Images whose densities are computed at a time: 33 MB with ImageNet's classes."""
SMALLEST = 1e-15
"""What the release adds to probabilities before their logarithm, and the mass of an empty class."""
EVERY, CONVERGED = 50, 1e-11
"""After how many updates the release looks at the last one's square over the parameters'."""
NUMBERS = 2**16
"""Dirichlet parameters that are updated together: few enough for the cache."""


class EmDirichlet(Head):
    """Cluster the images' distributions over classes, each class with a Dirichlet density.

    With the normalised text features T of c classes and the normalised global features x of the n
    images of a call ("Transductive Zero-Shot and Few-Shot CLIP", sections 3 and 4; constants as in
    the authors' release):

        q_i = softmax(scale · x_i Tᵀ)                                                          [c]
        u_i = q_i at first, a_k = (1, ..., 1)                                             [c], [c]
        in each round:
            y_k = Σ_i u_ik log q_i / Σ_i u_ik                                                  [c]
            a_k nearer to the a of the largest log Γ(Σ a) - Σ log Γ(a) + a · y_k               [c]
            π_k = mean_i u_ik
            u_ik ∝ Dirichlet(q_i | a_k) · exp(λ (log π_k + 1))        where λ = ⌊c / present⌋

    λ draws the images into few clusters. Each cluster that is the most likely of an image is then
    given a class of its own, such that the mean q of these images has the largest sum over clusters
    of what it has at their class; the other clusters keep theirs where it is free. The logits are
    log u, by class.

    Each round goes on from the a of the one before it, by up to `updates` steps of a bound that is
    above the negated likelihood and touches it at the present a (`_fit`). The largest is not always
    reached, and for a cluster of one image there is none, so these steps are part of the method.
    They end early by a rule on all clusters together; the release has all the tasks of a batch in
    it, and empty clusters, whose a stays as it is. The rounds end as well once no u moves by more
    than the dtype's precision, mostly after three to five on small tasks; the release goes on.

    It was published for tasks of 75 images of 3 to 10 classes, with `present` at 5 for all of them;
    on whole splits StatA's authors (Zanella et al., CVPR 2025) find it far behind zero-shot CLIP.

    Attributes:
        text: `[c, d]`, T.
    """

    sees = "set"
    carries_over = True  # nothing is learned: other classes have other texts
    given = ("text",)
    similarity_factors = ("scale",)
    text: Tensor

    def __init__(
        self, text: Float[Tensor, "c d"], scale: float, present: int, rounds: int, updates: int
    ) -> None:
        """Keep the settings.

        Args:
            text: class text features.
            scale: the factor on similarities in q, above 0.
            present: how many of the classes are thought to be present, from 1 up.
            rounds: how often all images are assigned anew, from 1 up.
            updates: how many times at most a is updated in a round, from 1 up.

        Raises:
            UserError: a setting is out of its range.
        """
        super().__init__()
        if scale <= 0:
            raise UserError(f"method.head.scale={scale} is not above 0.")
        require_integer("method.head.present", present, least=1)
        require_integer("method.head.rounds", rounds, least=1)
        require_integer("method.head.updates", updates, least=1)
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.scale = scale
        self.present = present
        self.rounds = rounds
        self.updates = updates

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        log_q = self._log_q(global_features)
        log_u = self._assign(log_q)
        return log_u[:, _cluster_of_class(log_q, log_u.argmax(dim=1))]

    def _log_q(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        q = (self.scale * F.normalize(features, dim=-1) @ self.text.T).softmax(dim=-1)
        return q.add_(SMALLEST).log_()

    def _assign(
        self,
        log_q: Float[Tensor, "n c"],
        labelled_sum: Float[Tensor, "c c"] | None = None,
        labelled: Float[Tensor, " c"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """Cluster the images.

        Args:
            log_q: of the images.
            labelled_sum: float64, row k the sum of log q over the labelled images of class k.
            labelled: float64, how many labelled images each class has.

        Returns:
            log u, of log_q's dtype, raised to the logarithm of its smallest normal number.
        """
        n, c = log_q.shape
        log_u = log_q.clone()
        a = torch.ones(c, c, dtype=torch.float64, device=log_q.device)
        precision = torch.finfo(log_q.dtype)
        for _ in range(self.rounds):
            summed, mass = _statistics(log_q, log_u)
            log_pi = (mass / n + SMALLEST).log()
            if labelled_sum is not None and labelled is not None:
                summed, mass = summed + labelled_sum, mass + labelled
            live = (mass > SMALLEST).nonzero().squeeze(1)
            a[live] = _fit(a[live], summed[live] / mass[live, None], self.updates)
            own = a.sum(dim=1).lgamma() - a.lgamma().sum(dim=1)
            own += (c // self.present) * (log_pi + 1)
            moved = 0.0
            for some_q, some_u in zip(
                torch.split(log_q, ROWS), torch.split(log_u, ROWS), strict=True
            ):
                density = own + some_q.double() @ (a - 1).T
                found = density.log_softmax(dim=1).clamp_min_(math.log(precision.tiny))
                moved = max(moved, float((found.exp() - some_u.exp()).abs().max()))
                some_u.copy_(found)
            if moved <= precision.eps:
                break
        return log_u


def _statistics(
    log_q: Float[Tensor, "n c"], log_u: Float[Tensor, "n c"]
) -> tuple[Float[Tensor, "c c"], Float[Tensor, " c"]]:
    """Sum u log q, and u, over the images, in float64."""
    c = log_q.shape[1]
    summed = torch.zeros(c, c, dtype=torch.float64, device=log_q.device)
    mass = torch.zeros_like(summed[0])
    for some_q, some_u in zip(torch.split(log_q, ROWS), torch.split(log_u, ROWS), strict=True):
        u = some_u.double().exp_()
        summed += u.T @ some_q.double()
        mass += u.sum(dim=0)
    return summed, mass


def _fit(a: Float[Tensor, "k c"], y: Float[Tensor, "k c"], updates: int) -> Float[Tensor, "k c"]:
    """Update the Dirichlet parameters of each cluster by majorisation and minimisation.

    The function to be minimised is Σ log Γ(a) - log Γ(Σ a) - a · y, where log Γ(a) is
    log Γ(a + 1) - log a. The bound on log Γ(a + 1) is the parabola that touches it at the present a
    and meets it at 0; that on -log Γ(Σ a) is its tangent. With ψ the derivative of log Γ and
    h = (ψ(a + 1) - log Γ(a + 1) / a) / a, half the parabola's curvature, their sum is smallest at

        (r + sqrt(r² + 8 h)) / (4 h)    where r = ψ(Σ a) + y + ψ(a + 1) - 2 log Γ(a + 1) / a

    Since log q is at least that of `SMALLEST`, a never comes so near to 0 that h loses its digits;
    the release has a case for that.

    Args:
        a: float64, above 0, where to begin.
        y: float64, the mean of log q.
        updates: how many there are at most.
    """
    a, before, done = a.clone(), torch.empty_like(a), 0
    size = max(NUMBERS // a.shape[1], 1)
    while done < updates:
        # The release first looks after 51 updates.
        count = min(EVERY if done else EVERY + 1, updates - done)
        for whole, of_whole, of_y in zip(
            torch.split(a, size), torch.split(before, size), torch.split(y, size), strict=True
        ):
            now = whole
            for _ in range(count):
                last, above = now, now + 1
                slope = above.digamma()
                chord = above.lgamma_().div_(now)
                four_h = torch.sub(slope, chord).mul_(4).div_(now)
                r = slope.add_(of_y).add_(now.sum(dim=1, keepdim=True).digamma_())
                r.sub_(chord, alpha=2)
                now = r.square().add_(four_h, alpha=2).sqrt_().add_(r).div_(four_h)
            of_whole.copy_(last)
            whole.copy_(now)
        done += count
        if (a - before).square().sum() < CONVERGED * before.square().sum():
            break
    return a


def _cluster_of_class(log_q: Float[Tensor, "n c"], cluster: Int[Tensor, " n"]) -> Int[Tensor, " c"]:
    """Find the cluster of each class, from the cluster of each image."""
    found, member = torch.unique(cluster, return_inverse=True)
    mean = torch.zeros(len(found), log_q.shape[1], dtype=torch.float64, device=log_q.device)
    for some_q, some in zip(torch.split(log_q, ROWS), torch.split(member, ROWS), strict=True):
        mean.index_add_(0, some, some_q.double().exp_())
    mean /= torch.bincount(member).unsqueeze(1)
    _, of_found = linear_sum_assignment(mean.cpu().numpy(), maximize=True)
    cluster_of = dict(zip(of_found.tolist(), found.tolist(), strict=True))
    taken = set(cluster_of.values())
    classes = range(log_q.shape[1])
    for k in classes:
        if k not in taken and k not in cluster_of:
            cluster_of[k] = k
            taken.add(k)
    left = (k for k in classes if k not in taken)
    return torch.tensor([cluster_of[k] if k in cluster_of else next(left) for k in classes]).to(
        cluster
    )
