"""What a run adapts to and what it is tested on, beside all classes of one dataset."""

import math

from omegaconf import DictConfig

from src.errors import UserError
from src.features.class_subset import ClassSubset
from src.features.datamodule import Features
from src.features.source import FeatureSource
from src.heads.base import Head
from src.heads.multi_view import MultiView
from src.heads.support import Support
from src.job import assembly, testing
from src.job.trainer import make_trainer
from src.methods.base import Method
from src.results.protocols import BASE_TO_NEW, harmonic_mean


def divide(cfg: DictConfig, source: FeatureSource) -> tuple[FeatureSource, FeatureSource | None]:
    """Give what a run adapts to, and the new classes that it is tested on beside.

    Base classes are the first half of the labels, rounded up (CoOp's `subsample_classes`).

    Raises:
        UserError: a half would have a single class.
    """
    if cfg.protocol.name != BASE_TO_NEW:
        return source, None
    count = len(source.class_names)
    base = math.ceil(count / 2)
    if count - base < 2:
        raise UserError(
            f"protocol={BASE_TO_NEW} tells the classes of each half apart, and {cfg.dataset.name} "
            f"has {count}: it takes four or more. Choose another dataset or protocol."
        )
    return ClassSubset(source, range(base)), ClassSubset(source, range(base, count))


def for_other_classes(
    cfg: DictConfig, method: Method, support: Support | None, source: FeatureSource
) -> Method:
    """Make the method for the classes of `source`, by the head's own rule (`Head.for_classes`)."""
    head: Head = method.head
    inner = head.head if isinstance(head, MultiView) else head
    given = {name: getattr(source, name) for name in {*inner.given, "text", "logit_scale"}}
    other = head.for_classes(given, assembly.hyperparameters(cfg, head), support)
    made = assembly.make_method(cfg, other, len(source.class_names), searching=False)
    made.temperature = method.temperature
    return made


def test_new_classes(
    cfg: DictConfig, method: Method, test: Features, base_accuracy: float
) -> dict[str, float]:
    """Test what `for_other_classes` gave on the images of those classes.

    Returns:
        `base_accuracy`, `new_accuracy` and their `harmonic_mean`, in per cent.
    """
    data = testing.make_test_data(cfg, method, test)
    trainer = make_trainer(cfg, logger=False, progress=False)
    found = testing.test(trainer, method, data)
    return {
        "base_accuracy": base_accuracy,
        "new_accuracy": found["accuracy"],
        "harmonic_mean": float(harmonic_mean(base_accuracy, found["accuracy"])),
    }
