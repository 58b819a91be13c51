"""Rows of images that could not be decoded: marked where they are stored, left out where read."""

from jaxtyping import Bool
from torch import Tensor

from src.features.datamodule import Features

LABEL = -1
"""Of such a row, which keeps its place so that a shard's rows are known before its images are."""


class RemainingRows:
    """The rows of `features` that `kept` marks; `Features` itself."""

    def __init__(self, features: Features, kept: Bool[Tensor, " n"]) -> None:
        self._features, self._rows = features, kept.nonzero().flatten()

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int, stop: int) -> dict[str, Tensor]:
        rows = self._rows[start:stop]
        first = int(rows[0])
        stored = self._features.rows(first, int(rows[-1]) + 1)
        return {name: tensor[rows - first] for name, tensor in stored.items()}
