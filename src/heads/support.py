"""The labelled images of a few-shot run, as a head sees them."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor


class Support(NamedTuple):
    """Crops of the images of the support set.

    Attributes:
        features: by name, `[v, n, ...]`: v crops of n images, not normalised.
        label: the class of each image.
    """

    features: dict[str, Tensor]
    label: Int[Tensor, " n"]

    def missing(self, class_names: Sequence[str]) -> list[str]:
        """List the classes without an image."""
        present = set(self.label.tolist())
        return [name for label, name in enumerate(class_names) if label not in present]
