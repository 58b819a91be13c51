"""Point clouds: the weighted sum of a head's logits for each depth map (PointCLIP, eq. 4)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from src.errors import UserError
from src.heads.base import Head
from src.heads.support import Support


class MultiView(Head):
    """Turn a head for images into one for point clouds, each of which has V depth maps.

    The head sees every depth map as an image: a cache of n_s clouds holds n_s · V keys. A head
    whose `depth_maps` are `joint` takes them together, `[n, v, ...]`, and gives the logits of each.

        logits = Σ_v w_v · logits of view v,  Σ_v w_v = 1

    PointCLIP (Zhang et al., CVPR 2022) does not divide by the sum of the weights. That changes no
    prediction, but multiplies the logit scale by the number of views.

    Attributes:
        head: the head for images.
    """

    given = ()
    weights: Tensor

    def __init__(self, head: Head, view_weights: Sequence[float]) -> None:
        """Set the weights of the views, from 0 up; only their proportions matter.

        Raises:
            UserError: a weight is negative, all are 0, or their sum is not finite.
        """
        super().__init__()
        self.head: Any = head
        self.inputs, self.sees, self.carries_over = head.inputs, head.sees, head.carries_over
        self.searched = (*head.searched, "view_weights")
        self.similarity_factors = head.similarity_factors
        self.affinity_factors = head.affinity_factors
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
        """Show the head every depth map of the support set as an image of its own."""
        self.head.prepare(self._by_view(support))

    def _by_view(self, support: Support) -> Support:
        if self.head.depth_maps == "joint":
            return support
        features = {name: rows.flatten(1, 2) for name, rows in support.features.items()}
        return Support(features, support.label.repeat_interleave(len(self.weights)))

    def for_classes(
        self, given: Mapping[str, Any], settings: Mapping[str, Any], support: Support | None
    ) -> "MultiView":
        """Make a classifier of other classes, whose views have the same weights."""
        shown = None if support is None else self._by_view(support)
        own = {name: value for name, value in settings.items() if name != "view_weights"}
        return MultiView(self.head.for_classes(given, own, shown), self.view_weights)

    def scale_settings(self, factors: Mapping[str, float]) -> None:
        self.head.scale_settings(factors)
        self.scaled = self.head.scaled

    def reset(self) -> None:
        self.head.reset()

    def loss(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        loss: Tensor = self.head.loss(logits, label)
        return loss

    def choose(self, settings: Mapping[str, Any]) -> None:
        """Change settings of the head, or the weights of the views."""
        others = dict(settings)
        if "view_weights" in others:
            self.view_weights = others.pop("view_weights")
        self.head.choose(others)

    def chosen(self) -> dict[str, Any]:
        return {**self.head.chosen(), "view_weights": self.view_weights}

    def fold(self) -> None:
        self.head.fold()

    def forward(self, *features: Float[Tensor, "n v ..."]) -> Float[Tensor, "n c"]:
        return self._weighted(self.each_view(*features))

    def each_view(self, *features: Float[Tensor, "n v ..."]) -> Float[Tensor, "n v c"]:
        """Compute the logits of each view."""
        if self.head.depth_maps == "joint":
            joint: Tensor = self.head(*features)
            return joint
        if self.head.sees == "set":  # the depth maps of one direction are a set of their own
            views = zip(*(rows.unbind(dim=1) for rows in features), strict=True)
            return torch.stack([self.head(*view) for view in views], dim=1)
        return self._by_cloud(self.head(*_as_images(features)))

    def lines(
        self, outer_values: Sequence[float], *features: Float[Tensor, "n v ..."]
    ) -> Iterator[tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]]:
        """Give the head's lines, weighted and summed: they are as linear as its logits."""
        for line in self.head.lines(outer_values, *_as_images(features)):
            base, direction = (self._weighted(self._by_cloud(part)) for part in line)
            yield base, direction

    def _by_cloud(self, logits: Float[Tensor, "nv c"]) -> Float[Tensor, "n v c"]:
        return logits.view(-1, len(self.weights), logits.shape[-1])

    def _weighted(self, logits: Float[Tensor, "n v c"]) -> Float[Tensor, "n c"]:
        return torch.einsum("nvc,v->nc", logits, self.weights)


def _as_images(features: Sequence[Float[Tensor, "n v ..."]]) -> list[Float[Tensor, "nv ..."]]:
    return [rows.flatten(end_dim=1) for rows in features]
