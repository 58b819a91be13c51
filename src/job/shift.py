"""Evaluating what was adapted on one dataset on others: `eval_dataset=imagenet_v2,imagenet_a`.

Nothing is adapted to them: prompts, support set and settings are those of `dataset`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from src.config import build, compose
from src.data.images import ImageDataset
from src.data.point_clouds import PointClouds
from src.data.text_files import listing
from src.errors import UserError

if TYPE_CHECKING:
    from lightning import Trainer

    from src.features.datamodule import Features
    from src.methods.base import Method


@dataclass(frozen=True)
class EvalDataset:
    """A further dataset to evaluate on; `classes[k]` is the adapted label of its class k."""

    name: str
    images: ImageDataset
    classes: Sequence[int]


def read_all(cfg: DictConfig, adapted: Any) -> list[EvalDataset]:
    """Read the datasets that `cfg.eval_dataset` names; `adapted` is the one adapted on.

    Raises:
        UserError: a dataset is unusable, needs settings of its own, has a class that `adapted` does
            not have, or holds point clouds where that holds images; or features were brought
            along, to which images cannot be compared.
    """
    return [_read(name, cfg.paths.data, adapted) for name in dict.fromkeys(cfg.eval_dataset)]


def _read(name: str, data: str, adapted: Any) -> EvalDataset:
    other = compose([f"dataset={name}"])
    other.paths.data = data
    if isinstance(adapted, PointClouds) and "views" in other.dataset:
        other.dataset.views = adapted.views
    try:
        OmegaConf.to_container(other.dataset, resolve=True, throw_on_missing=True)
        images = build(other.dataset.reader)
    except MissingMandatoryValue:
        raise UserError(
            f"eval_dataset={name} needs settings of its own: write them into a YAML beside "
            f"conf/dataset/{name}.yaml, and give that one's name."
        ) from None
    except UserError as error:
        raise UserError(f"eval_dataset={name}: {error}") from None
    if not hasattr(adapted, "load"):
        raise UserError("eval_dataset needs images, and dataset=precomputed has features only.")
    if isinstance(images, PointClouds) != isinstance(adapted, PointClouds):
        raise UserError(
            f"eval_dataset={name}: what is adapted to images cannot be evaluated on point clouds, "
            "nor the other way round. Leave it out."
        )
    return EvalDataset(name, images, find_classes(images, adapted, name))


def find_classes(evaluated: ImageDataset, adapted: ImageDataset, name: str) -> list[int]:
    """Find each class of `evaluated` among those of `adapted`, and return its label there.

    Classes are compared by their identifiers where both datasets have them (ImageNet's WordNet
    numbers: two of its classes may share a name), else by name, underscores read as spaces.

    Raises:
        UserError: `adapted` lacks a class of `evaluated`, the dataset called `name`, or has two of
            that name.
    """
    wanted, known = (list(getattr(one, "class_ids", None) or ()) for one in (evaluated, adapted))
    if not (wanted and known):
        wanted, known = (
            [class_name.replace("_", " ") for class_name in one.class_names]
            for one in (evaluated, adapted)
        )
    if unknown := [one for one in wanted if known.count(one) != 1]:
        raise UserError(
            f"eval_dataset={name} has classes that the adapted dataset does not have just once: "
            f"{listing(unknown, known)}. Every class evaluated must have been adapted to."
        )
    labels = {one: label for label, one in enumerate(known)}
    return [labels[one] for one in wanted]


def evaluate(
    test: "Features",
    classes: Sequence[int],
    method: "Method",
    batch_size: int,
    trainer: "Trainer",
) -> tuple[dict[str, Any], "Method"]:
    """Test the adapted `method` on the features `test`, over `classes` alone.

    Returns:
        What `Method` logs when it is tested and `n_test`, the number of images; and the one that
        was tested, `method` restricted to the classes.
    """
    from src.features.datamodule import FeatureDataModule
    from src.heads.restricted import Restricted
    from src.methods.base import Method

    head = Restricted(method.head, method.inputs, classes)
    restricted = Method(head, len(classes), method.keep_predictions)
    data = FeatureDataModule(method.inputs, batch_size, test=test)
    (figures,) = trainer.test(restricted, datamodule=data, verbose=False)
    return {**figures, "n_test": len(test)}, restricted
