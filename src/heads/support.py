"""The labelled images of a few-shot run, as a head sees them."""

from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor


class Support(NamedTuple):
    """Augmented views of the support set.

    Attributes:
        features: by name, `[v, n, ...]`: v views of n images, of any length.
        label: the class of each image.
    """

    features: dict[str, Tensor]
    label: Int[Tensor, " n"]
