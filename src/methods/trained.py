"""Methods that train a head by gradient on the support set."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, SequentialLR
from torchmetrics import MeanMetric

from src.errors import UserError
from src.heads.base import Head
from src.methods.base import Batch, Method
from src.methods.search import Search
from src.methods.view_search import ViewSearch

Interval = Literal["step", "epoch"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate over training: a constant warm-up, then a cosine.

    The cosine begins after the warm-up, and its period is that of all epochs: after a warm-up, the
    rate does not come down to zero. So it is in Dassl, by which CoOp and PointCLIP are trained.

    Attributes:
        epochs: passes over the support set.
        interval: how often the rate changes.
        warmup_epochs: epochs at `warmup_lr` before the cosine begins.
        warmup_lr: the learning rate of the warm-up.
    """

    epochs: int
    interval: Interval = "step"
    warmup_epochs: int = 0
    warmup_lr: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_epochs < self.epochs:
            raise UserError(
                f"epochs={self.epochs} must be more than warmup_epochs={self.warmup_epochs}: "
                "correct method.training.epochs."
            )
        if self.interval not in get_args(Interval):
            raise UserError(
                f"method.module.schedule.interval={self.interval} is unknown: give step or epoch."
            )

    def build(self, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
        """Make the scheduler that Lightning advances every `interval`."""
        scale = steps_per_epoch if self.interval == "step" else 1
        warmup, total = self.warmup_epochs * scale, self.epochs * scale
        cosine = CosineAnnealingLR(optimizer, T_max=total)
        if warmup == 0:
            return cosine
        factor = self.warmup_lr / optimizer.defaults["lr"]
        constant = ConstantLR(optimizer, factor=factor, total_iters=warmup)
        return SequentialLR(optimizer, [constant, cosine], milestones=[warmup])


class Trained(Method):
    """`trainer.fit` minimises the head's loss on the support set.

    It logs `train_loss`, and `validation_loss` and `validation_accuracy` (per cent) where there are
    validation images.
    What remains is the head after the last epoch or, with `keep="best"`, after the first epoch
    with the best validation accuracy; never what is best on the test split.

    Raises:
        UserError: `keep` is unknown; or during training, if the loss is not finite.
    """

    def __init__(
        self,
        head: Head,
        metrics: nn.Module,
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        schedule: Schedule,
        keep: Literal["last", "best"],
        keep_predictions: bool = False,
        searches: Sequence[Search | ViewSearch] = (),
    ) -> None:
        super().__init__(head, metrics, keep_predictions, searches)
        if keep not in ("last", "best"):
            raise UserError(f"method.module.keep={keep} is unknown: give last or best.")
        self.optimizer, self.schedule, self.keep = optimizer, schedule, keep
        self.validation_accuracy = MeanMetric()
        self._best: tuple[float, dict[str, Tensor]] | None = None

    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self.head.parameters() if p.requires_grad)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        parameters = (p for p in self.head.parameters() if p.requires_grad)
        optimizer = self.optimizer(parameters)
        steps = int(self.trainer.estimated_stepping_batches) // self.schedule.epochs
        scheduler = self.schedule.build(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.schedule.interval},
        }

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss: Tensor = self.head.loss(self(batch), batch["label"])
        if not loss.isfinite():
            raise UserError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}, step "
                f"{self.global_step}: try a lower method.module.optimizer.lr."
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["label"]))
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        if self._searching:
            super().validation_step(batch, index)
        else:
            logits, label = self(batch), batch["label"]
            self.validation_accuracy.update((logits.argmax(dim=-1) == label).float())
            self.log("validation_loss", self.head.loss(logits, label), batch_size=len(label))

    def on_validation_epoch_end(self) -> None:
        if self._searching:
            super().on_validation_epoch_end()
            return
        accuracy = 100 * self.validation_accuracy.compute()
        self.validation_accuracy.reset()
        self.log("validation_accuracy", accuracy, prog_bar=True)
        fitting = self.trainer.state.fn == "fit"
        if fitting and self.keep == "best" and (self._best is None or accuracy > self._best[0]):
            self._best = float(accuracy), copy.deepcopy(self.head.state_dict())

    def on_fit_end(self) -> None:
        if self._best is not None:
            self.head.load_state_dict(self._best[1])

    @property
    def _searching(self) -> bool:
        return bool(self.searches) and self.trainer.state.fn == "validate"
