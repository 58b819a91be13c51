"""The labelled images of a few-shot run, as a head sees them."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from src.errors import UserError


class Support(NamedTuple):
    """Augmented views of the support set.

    Attributes:
        features: by name, `[v, n, ...]`: v views of n images, of any length.
        label: the class of each image.
    """

    features: dict[str, Tensor]
    label: Int[Tensor, " n"]


def require_every_class(label: Int[Tensor, " n"], n_classes: int) -> None:
    """Refuse a support set that lacks a class.

    Raises:
        UserError: a label from 0 to `n_classes - 1` is not in `label`.
    """
    missing = (torch.bincount(label, minlength=n_classes) == 0).nonzero().flatten().tolist()
    if missing:
        raise UserError(
            f"the support set has no image of {len(missing)} of the {n_classes} classes (label "
            f"{', '.join(map(str, missing))}): add training images of them or remove the classes."
        )
