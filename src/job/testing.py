"""How test images are shown to what was adapted: one by one, as streams, as a whole, in tasks."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from lightning import Trainer
from omegaconf import DictConfig
from torch import Tensor

from src.config import TASKS
from src.errors import UserError
from src.features import passes
from src.features.datamodule import FeatureDataModule, Features, in_memory
from src.features.passes import Passes
from src.heads.base import ContractError
from src.methods.base import Method
from src.results.metrics import WORST_TENTH


def check(cfg: DictConfig, head_class: Any) -> None:
    """Check what goes together with answers that depend on other test images.

    Raises:
        ContractError: the method's YAML does not say what its head sees.
        UserError: probabilities are to be calibrated, which are those of no single image.
    """
    if (cfg.method.get("stream") is not None) != (head_class.sees == "stream"):
        raise ContractError(
            f"{head_class.__name__}.sees is {head_class.sees!r}: the YAML of a method has "
            "`stream: ${stream}` where its head sees a stream, and only there"
        )
    for key in ("calibrate", "conformal"):
        if head_class.sees != "image" and cfg[key] is not None:
            raise UserError(
                f"{key}={cfg[key]}: the probabilities of method={cfg.method.name} depend on which "
                f"test images it sees together. Leave {key} out, or choose another method."
            )


def make_test_data(cfg: DictConfig, method: Method, test: Features) -> FeatureDataModule:
    """Gather what is tested on, for a method that is not adapted any more."""
    shown = passes_over(cfg, method.head, test)
    return FeatureDataModule(method.inputs, cfg.batch_size, test=test, test_passes=shown)


def passes_over(cfg: DictConfig, head: Any, test: Features) -> Passes | None:
    """Say how test images are shown to a head; None: once, in their own order, in any batches.

    By `protocol=tasks` each pass is a task. Otherwise a head that sees a stream has a pass for each
    order, and one that sees a set has all images at once.
    """
    tasks = cfg.protocol.name == TASKS
    if not tasks and head.sees == "image":
        return None
    label = in_memory(test, ["label"])["label"]
    if tasks:
        protocol = cfg.protocol
        draw = partial(passes.task, size=protocol.images, classes=tuple(protocol.classes))
        count = protocol.tasks
    elif head.sees == "stream":
        draw, count = _order(cfg.method.stream), cfg.method.stream.orders
    else:
        return Passes([torch.arange(len(label))], len(label))
    rows = [draw(label, cfg.seed, number) for number in range(count)]
    if head.sees == "set":
        return Passes(rows, max(map(len, rows)))
    arriving = head.batch_size if head.sees == "stream" else 1
    return Passes(rows, max(cfg.batch_size // arriving, 1) * arriving)


def _order(stream: DictConfig) -> Any:
    if stream.name == "dirichlet":
        settings = {name: stream[name] for name in ("concentration", "slots")}
        return partial(passes.dirichlet, **settings)
    return passes.by_class if stream.name == "by_class" else passes.shuffled


def test(trainer: Trainer, method: Method, data: FeatureDataModule) -> dict[str, float]:
    """Test a method; where there are several passes, accuracies are the means of theirs."""
    (metrics,) = trainer.test(method, datamodule=data, verbose=False)
    found = dict(metrics)
    accuracy = method.answers.accuracy
    if len(accuracy) > 1:
        found |= {"accuracy": fmean(accuracy), WORST_TENTH: worst_tenth(accuracy)}
    return found


def worst_tenth(accuracy: Sequence[float]) -> float:
    """Average the worst tenth of some accuracies, one of them at least.

    OGA (Fuchs et al., 2025) calls it the expected tail accuracy.
    """
    count = max(1, math.ceil(len(accuracy) / 10))
    return fmean(sorted(accuracy)[:count])


def balance(label: Int[Tensor, " n"], shown: Passes | None) -> Mapping[str, Sequence[int]]:
    """Say how classes are balanced among images that are seen together.

    Returns:
        `classes`, how many have images, and `images`, how many a class has that has any; each at
        least and at most, over the tasks where there are several.
    """
    together = [label] if shown is None else [label[rows] for rows in shown.rows]
    counts = [np.unique(one.numpy(), return_counts=True)[1] for one in together]
    classes = [len(count) for count in counts]
    images = np.concatenate(counts)
    return {
        "classes": [min(classes), max(classes)],
        "images": [int(images.min()), int(images.max())],
    }
