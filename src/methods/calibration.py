"""Temperature scaling (Guo et al., ICML 2017): one number that makes probabilities honest."""

import logging

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

log = logging.getLogger(__name__)


def fit_temperature(logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> float:
    """Find the T > 0 for which softmax(logits / T) makes the labels most likely.

    The likelihood has one maximum, which LBFGS finds over log T, in float64. The maximum is at no
    finite T where every label has the highest logit (T would go to 0), nor where labels have no
    higher logits than classes have in the mean (T would go to infinity): then T is 1, and a warning
    says so. T is never worse than 1.
    """
    # Copies, for no graph can be built on what a test of Lightning's gave.
    values, label = logits.to(torch.float64, copy=True), label.clone()
    of_label = values.gather(1, label[:, None]).squeeze(1)
    if (of_label == values.amax(dim=1)).all() or of_label.mean() <= values.mean():
        log.warning(
            "no temperature fits %d validation images that are all classified right, or no better "
            "than by chance: it stays 1. More of them may help: selection=val.",
            len(label),
        )
        return 1.0
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_temperature],
        max_iter=100,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(values / log_temperature.exp(), label)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    with torch.enable_grad():
        before = optimizer.step(loss)  # type: ignore[no-untyped-call]
        better = bool(loss() <= before)  # not of NaN
    return float(log_temperature.detach().exp()) if better else 1.0
