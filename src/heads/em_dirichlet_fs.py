"""EM-Dirichlet with labelled images (Martin et al., CVPR 2024)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.heads.em_dirichlet import EmDirichlet
from src.heads.support import Support


class EmDirichletFs(EmDirichlet):
    """Cluster as `EmDirichlet` does, with the support set's images in their classes' clusters.

    In each round, with S_k the support set's images of class k:

        y_k = (Σ_i u_ik log q_i + Σ_{j ∈ S_k} log q_j) / (Σ_i u_ik + |S_k|)                    [c]

    Clusters are classes from the first on, and none is matched. π is over the images of the call
    alone. Of several crops of a support image the mean log q counts. For `present` the authors'
    release takes how many classes a task has in truth.

    Attributes:
        labelled_sum: float64 `[c, c]`, row k the sum of log q over S_k, after `prepare`.
        labelled: float64 `[c]`, |S_k|, after `prepare`.
    """

    carries_over = False
    needs_every_class = True
    labelled_sum: Tensor
    labelled: Tensor

    def __init__(
        self, text: Float[Tensor, "c d"], scale: float, present: int, rounds: int, updates: int
    ) -> None:
        """Keep the settings; see `EmDirichlet`."""
        super().__init__(text, scale, present, rounds, updates)
        c = len(text)
        self.register_buffer("labelled_sum", torch.zeros(c, c, dtype=torch.float64))
        self.register_buffer("labelled", torch.zeros(c, dtype=torch.float64))

    def prepare(self, support: Support) -> None:
        """Sum log q of the support images of each class."""
        crops, label = support.features["global"].to(self.text), support.label.to(self.text.device)
        log_q = torch.stack([self._log_q(crop) for crop in crops]).double().mean(dim=0)
        self.labelled_sum.zero_().index_add_(0, label, log_q)
        self.labelled.copy_(F.one_hot(label, len(self.text)).sum(dim=0))

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return self._assign(self._log_q(global_features), self.labelled_sum, self.labelled)
