"""Several views of an object: what a head says of each, weighted and summed (PointCLIP, eq. 4)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.errors import UserError
from src.heads.support import Support


class MultiView(nn.Module):
    """Turn a head for images into one for objects, of which each has V views.

    The head sees every view as an image: a cache of n_s objects holds n_s · V keys. A head that
    `joins_views` takes them together instead, `[n, v, ...]`, and gives the logits of each.

        logits = Σ_v w_v · logits of view v,  Σ_v w_v = 1

    PointCLIP (Zhang et al., CVPR 2022) does not divide by the sum of the weights: that changes no
    prediction, but multiplies the logit scale by the number of views.

    Attributes:
        head: the head for images; its settings stay its own.
    """

    weights: Tensor

    def __init__(self, head: nn.Module, view_weights: Sequence[float]) -> None:
        """Weigh the views, from 0 up, in proportion.

        Raises:
            UserError: a weight is negative, all are 0, or their sum is not finite.
        """
        super().__init__()
        self.head: Any = head
        self.inputs = self.head.inputs
        self.register_buffer("weights", torch.zeros(len(view_weights)))
        self.view_weights = list(view_weights)

    @property
    def view_weights(self) -> list[float]:
        """The weights of the views, which sum to 1."""
        weights: list[float] = self.weights.tolist()
        return weights

    @view_weights.setter
    def view_weights(self, values: Sequence[float]) -> None:
        weights = torch.tensor(values, dtype=self.weights.dtype)
        if not weights.sum().isfinite() or weights.min() < 0 or weights.sum() == 0:
            raise UserError(
                f"dataset.view_weights={list(values)}: give numbers from 0 up, not all of them 0."
            )
        self.weights.copy_(weights / weights.sum())

    def prepare(self, support: Support) -> None:
        """Show the head every view of the support set as an image of its own."""
        if not hasattr(self.head, "prepare"):
            return
        views = len(self.weights)
        features = {name: rows.flatten(1, 2) for name, rows in support.features.items()}
        self.head.prepare(Support(features, support.label.repeat_interleave(views)))

    def forward(self, *features: Float[Tensor, "n v ..."]) -> Float[Tensor, "n c"]:
        return self._weighted(self.each_view(*features))

    def each_view(self, *features: Float[Tensor, "n v ..."]) -> Float[Tensor, "n v c"]:
        """Compute the logits of each view."""
        if getattr(self.head, "joins_views", False):
            joint: Tensor = self.head(*features)
            return joint
        return self._by_object(self.head(*_as_images(features)))

    def lines(
        self, outer_values: Sequence[float], *features: Float[Tensor, "n v ..."]
    ) -> Iterator[tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]]:
        """Give the head's lines, weighted and summed: they are as linear as its logits."""
        for line in self.head.lines(outer_values, *_as_images(features)):
            base, direction = (self._weighted(self._by_object(part)) for part in line)
            yield base, direction

    def _by_object(self, logits: Float[Tensor, "nv c"]) -> Float[Tensor, "n v c"]:
        return logits.view(-1, len(self.weights), logits.shape[-1])

    def _weighted(self, logits: Float[Tensor, "n v c"]) -> Float[Tensor, "n c"]:
        return torch.einsum("nvc,v->nc", logits, self.weights)


def _as_images(features: Sequence[Float[Tensor, "n v ..."]]) -> list[Float[Tensor, "nv ..."]]:
    return [rows.flatten(end_dim=1) for rows in features]
