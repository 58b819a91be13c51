"""An adapted classifier asked about some of its classes only."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Restricted(nn.Module):
    """Score images over `classes` alone, as ImageNet-A and -R are, with 200 of the 1,000 classes.

    The head itself still knows all its classes: attention over classes, as CALIP's, goes over all.
    """

    classes: Tensor

    def __init__(self, head: nn.Module, inputs: Sequence[str], classes: Sequence[int]) -> None:
        """Keep `head`, which takes `inputs`; `classes[k]` is its label of the k-th class."""
        super().__init__()
        self.head = head
        self.inputs = tuple(inputs)
        self.register_buffer("classes", torch.tensor(classes, dtype=torch.int64))

    def forward(self, *features: Tensor) -> Float[Tensor, "n k"]:
        logits: Tensor = self.head(*features)
        return logits[:, self.classes]
