"""The linear probe, whose one setting is chosen by bisection."""

import torch
from torch import Tensor

from src.methods.base import Batch, Method


class LinearProbe(Method):
    """`trainer.validate` chooses the regression's C on the validation images and fits it again."""

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._seen: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: Batch, _: int) -> None:
        self._seen.append((batch["global"], batch["label"]))

    def on_validation_epoch_end(self) -> None:
        features, label = zip(*self._seen, strict=True)
        c, accuracy = self.head.choose_c(torch.cat(features), torch.cat(label))
        self.head.choose({"c": c})
        self.log("validation_accuracy", accuracy)
