"""OGA: Gaussian classes of the surest images of a stream (Fuchs et al., CVPR Workshops 2025)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.errors import require_integer
from src.heads.base import Head


class Oga(Head):
    """Multiply CLIP's probabilities with those of Gaussian classes with one covariance.

    With `f` the global and `T` `[c, d]` the text features, both normalised, zero-shot CLIP's
    probabilities p = softmax(scale · f Tᵀ), its answer ĉ and its entropy H(p) ("Online Gaussian
    Test-Time Adaptation of Vision-Language Models"; constants and details as in the authors'
    release, whose defaults these are):

        memory: of each ĉ the `capacity` images of lowest H, if below log c, the entropy of no idea
        μ_c = (sum of class c's images in memory) / capacity if there are two or more, else T_c
        M = covariance of the n images x_i - μ of their class                              [d, d]
        P = d · ((n - 1) M + tr(M) I)⁻¹ while n ≤ 4d, then the pseudo-inverse of M         [d, d]
        g_c = f P μ_c - ½ μ_cᵀ P μ_c
        posterior ∝ p · softmax(tau · g), so logits = scale · f Tᵀ + tau · g                   [c]

    The mean is over all places of the memory, the empty ones being 0, and is not normalised. P is
    d · I until a class has three images; it is 0 if they do not differ. The pseudo-inverse leaves
    out directions whose variance is below d times the precision of the features' type, relative to
    the largest. An image takes the first place of the largest H of its class if its own is
    smaller. Of the `batch_size` images that arrive together, all are put before the memory first,
    in their order, and then all are classified. (The release keeps features and entropies in
    float16, where images that CLIP is very sure of all have entropy 0 and displace one another, and
    adds 10⁻⁹ to the probabilities in the entropy. Both are left out.)

    What is sequential by nature: every batch that changes the memory changes P, and so g of all
    classes. That takes one eigendecomposition for each such batch, d³, and one product, d² c, and
    no more: the covariance is updated by the classes that changed. Which images are stored follows
    from ĉ and H alone, by a loop over plain numbers.

    Attributes:
        memory: `[c, capacity, d]`, the stored features.
        entropy: of each class, those of its stored images, by place.
        held: `[c, capacity, 1]`, 1 where the memory has an image, else 0.
        mean: `[c, d]`, μ.
        scatter: float64 `[d, d]`, Σ (x_i - μ)(x_i - μ)ᵀ. It is updated, and must not drift.
        total: float64 `[d]`, Σ (x_i - μ).
        root: `[d, d]`, R with P = R Rᵀ.
        centre: `[c, d]`, μ R.
    """

    sees = "stream"
    carries_over = True  # nothing is learned: other classes have other texts
    depth_maps = "refused"
    text: Tensor
    memory: Tensor
    held: Tensor
    mean: Tensor
    scatter: Tensor
    total: Tensor
    root: Tensor
    centre: Tensor

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        tau: float = 0.05,
        capacity: int = 8,
        batch_size: int = 32,
    ) -> None:
        """Keep the settings; the memory is empty.

        Args:
            text: class text features.
            logit_scale: the factor on CLIP's similarities.
            tau: the share of the Gaussian classes, from 0 up.
            capacity: images of each class in memory, from 1 up.
            batch_size: how many images arrive together, from 1 up.

        Raises:
            UserError: the capacity or the batch size is below 1.
        """
        super().__init__()
        require_integer("method.head.capacity", capacity, least=1)
        require_integer("method.head.batch_size", batch_size, least=1)
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.tau = tau
        self.capacity = capacity
        self.batch_size = batch_size
        classes, width = text.shape
        exact = text.new_zeros(width, width, dtype=torch.float64)
        for name, state in {
            "memory": text.new_zeros(classes, capacity, width),
            "held": text.new_zeros(classes, capacity, 1),
            "mean": torch.empty_like(text),
            "scatter": exact,
            "total": exact[0].clone(),
            "root": text.new_empty(width, width),
            "centre": torch.empty_like(text),
        }.items():
            self.register_buffer(name, state, persistent=False)
        self.reset()

    def reset(self) -> None:
        """Empty the memory."""
        self.entropy: list[list[float]] = [[] for _ in self.text]
        self.memory.zero_()
        self.held.zero_()
        self.mean.copy_(self.text)
        self.scatter.zero_()
        self.total.zero_()
        width = self.text.shape[1]
        self.root.copy_(math.sqrt(width) * torch.eye(width))
        self.centre.copy_(math.sqrt(width) * self.mean)

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Classify images in the order of their arrival, and store those that are sure enough.

        Args:
            global_features: of whole batches, except for the last of a stream.
        """
        f = F.normalize(global_features, dim=-1)
        logits = self.logit_scale * f @ self.text.T
        log_p = logits.log_softmax(dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        surest, unsureness = logits.argmax(dim=-1).tolist(), entropy.tolist()
        for start in range(0, len(f), self.batch_size):
            rows = slice(start, start + self.batch_size)
            self._remember(f[rows].detach(), surest[rows], unsureness[rows])
            nearness = f[rows] @ self.root @ self.centre.T
            logits[rows] += self.tau * (nearness - self.centre.square().sum(dim=-1) / 2)
        return logits

    def _remember(
        self, f: Float[Tensor, "n d"], label: Sequence[int], entropy: Sequence[float]
    ) -> None:
        """Put a batch before the memory; if that changes it, fit the Gaussian classes to it."""
        placed: dict[tuple[int, int], int] = {}  # class and place, and the row that ends up there
        for row, (own, value) in enumerate(zip(label, entropy, strict=True)):
            stored = self.entropy[own]
            if len(stored) < self.capacity:
                if value < math.log(len(self.text)):
                    placed[own, len(stored)] = row
                    stored.append(value)
            elif value < (largest := max(stored)):
                place = stored.index(largest)
                placed[own, place] = row
                stored[place] = value
        if not placed:
            return
        changed = torch.tensor(sorted({own for own, _ in placed}), device=f.device)
        self._count(changed, -1)
        owners, places = torch.tensor(list(placed), device=f.device).T
        self.memory[owners, places] = f[list(placed.values())]
        self.held[owners, places] = 1
        several = self.held[changed].sum(dim=1) >= 2
        self.mean[changed] = torch.where(
            several, self.memory[changed].mean(dim=1), self.text[changed]
        )
        self._count(changed, 1)
        self._fit()

    def _count(self, classes: Tensor, sign: int) -> None:
        """Add the images of some classes to the sums, or take them out."""
        rows = self.held[classes] * (self.memory[classes] - self.mean[classes].unsqueeze(1))
        rows = rows.flatten(0, 1).double()
        self.scatter.addmm_(rows.T, rows, alpha=sign)
        self.total.add_(rows.sum(dim=0), alpha=sign)

    def _fit(self) -> None:
        """Compute the root of P, if a class has enough images, and what μ is in its terms."""
        counts = [len(stored) for stored in self.entropy]
        if max(counts) > 2:
            n, width = sum(counts), self.text.shape[1]
            covariance = (self.scatter - torch.outer(self.total, self.total) / n) / (n - 1)
            variance, axes = torch.linalg.eigh(covariance.to(self.text.dtype))
            spread = covariance.trace()
            if n <= 4 * width:
                precision = width / ((n - 1) * variance.clamp_min(0) + spread)
            else:
                least = width * torch.finfo(variance.dtype).eps * variance[-1]
                precision = torch.where(variance > least, 1 / variance, 0)
            # Images that are all the same leave nothing but rounding.
            some = spread > width * torch.finfo(spread.dtype).eps
            self.root.copy_(axes * torch.where(some, precision, 0).sqrt())
        torch.mm(self.mean, self.root, out=self.centre)
