"""LP++, whose learning rates come from the support set (Huang, Shakeri et al., CVPR 2024)."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from src.errors import UserError, require_integer
from src.heads.lp_plus_plus import LPPlusPlus as LPPlusPlusHead
from src.methods.base import Batch
from src.methods.search import Search
from src.methods.trained import Schedule, Trained
from src.methods.view_search import ViewSearch


class LPPlusPlus(Trained):
    """`trainer.fit` descends in blocks: W and b in every epoch, α in every tenth, at fixed rates.

    An epoch is one step, on all images. W and b have momentum; α moves along the gradient of its
    own epoch. The authors' release never sets α's gradient to zero, so there it is the sum over all
    epochs so far: this is not followed.

    With `X` `[n, d]` the normalised features, `Y` `[n, c]` the one-hot labels, and the rest as in
    `src.heads.lp_plus_plus`, the gradients of the cross-entropy are

        G = softmax(logits) - Y  [n, c],   ∂W = Gᵀ X / N,   ∂b = Σ_i G_i / N,   ∂α_c = T_c · ∂W_c
    """

    def __init__(
        self,
        head: LPPlusPlusHead,
        metrics: nn.Module,
        keep: Literal["last", "best"],
        momentum: float,
        alpha_interval: int,
        keep_predictions: bool = False,
        searches: Sequence[Search | ViewSearch] = (),
    ) -> None:
        """Wrap a head.

        Args:
            head: it has its rates once it is prepared.
            metrics: as for every method.
            keep: as for `Trained`.
            momentum: that of W and b, from 0 to below 1.
            alpha_interval: epochs from one step of α to the next, from 1 up.
            keep_predictions: as for every method.
            searches: as for every method.

        Raises:
            UserError: `keep` is unknown, or another setting is out of range; or during training, if
                the loss is not finite.
        """
        require_integer("method.module.alpha_interval", alpha_interval, least=1)
        if not 0 <= momentum < 1:
            raise UserError(f"method.module.momentum={momentum} is not from 0 to below 1.")

        def descent(parameters: Iterator[nn.Parameter]) -> Optimizer:
            return SGD(parameters, lr=head.weight_rate, momentum=momentum)

        # The rates are constant: the schedule is not used.
        super().__init__(head, metrics, descent, Schedule(1), keep, keep_predictions, searches)
        self.alpha_interval = alpha_interval
        self.automatic_optimization = False
        self._work: tuple[Tensor, Tensor, Tensor] | None = None

    def configure_optimizers(self) -> Optimizer:  # type: ignore[override]
        return self.optimizer(iter([self.head.weight, self.head.bias]))

    def training_step(self, batch: Batch, _: int) -> None:  # type: ignore[override]
        head, label = self.head, batch["label"]
        loss = self._differentiate(batch["global"], label)
        if not loss.isfinite():
            raise UserError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}: try a lower "
                "method.module.momentum."
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(label))
        optimizer: Any = self.optimizers()
        optimizer.step()
        if (self.current_epoch + 1) % self.alpha_interval == 0:
            gradient = (head.weight.grad * head.text).sum(dim=-1)
            head.alpha.data.sub_(head.alpha_rate * gradient)

    def on_fit_end(self) -> None:
        super().on_fit_end()
        self._work = None

    @torch.no_grad()
    def _differentiate(
        self, features: Float[Tensor, "n d"], label: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """Compute the cross-entropy and, into `grad`, its gradients in W and b.

        Without autograd, because at ImageNet's size its memory takes as long as the products.
        """
        head, images, classes = self.head, len(features), len(self.head.text)
        if self._work is None:
            new = features.new_empty
            self._work = new(features.shape), new(images, classes), new(images, classes)
        x, logits, g = self._work
        F.normalize(features, dim=-1, out=x)
        torch.addmm(head.bias, x, head.classifier().T, out=logits)
        torch.softmax(logits, dim=-1, out=g)
        # log Σ exp(logits), from the largest of each row, whose probability never underflows
        total = logits.amax(dim=-1) - g.amax(dim=-1).log()
        loss = (total - logits.gather(1, label[:, None]).squeeze(1)).mean()
        g[torch.arange(images, device=g.device), label] -= 1
        head.weight.grad = (g.T @ x).div_(images)
        head.bias.grad = g.sum(dim=0).div_(images)
        return loss
