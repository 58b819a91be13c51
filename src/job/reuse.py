"""Evaluating what an earlier run trained: `ckpt_path=...`."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.data.text_files import listing
from src.errors import UserError

if TYPE_CHECKING:
    from src.features.source import Origin
    from src.methods.checkpoint import Saved

OF_THE_RUN = (
    "selection", "validation_accuracy", "settings_from", "epochs", "distinct_crops",
)  # fmt: skip
"""Fields of a record that say how something was trained: a checkpoint keeps those of its run."""

VIEW_WEIGHTS = "view_weights"

log = logging.getLogger(__name__)


def adopt(cfg: DictConfig, saved: "Saved") -> None:
    """Give a run the shots, the seed and the settings of the head that the checkpoint has.

    A checkpoint may come from anyone: it sets what the configuration has as a setting of the head,
    and the weights of depth maps. It never names a class, nor anything to be looked up.

    Raises:
        UserError: other shots were given, or a setting is to be looked up.
    """
    shots = saved.result["shots"]
    given = {one.partition("=")[0] for one in HydraConfig.get().overrides.task}
    if "shots" in given and cfg.shots != shots:
        raise UserError(
            f"shots={cfg.shots}: ckpt_path={saved.path} was made with shots={shots}. Leave shots "
            "out: those of a checkpoint are its own."
        )
    for name in ("shots", "seed"):
        if cfg[name] != saved.result[name]:
            log.info("%s=%s is the checkpoint's own", name, saved.result[name])
        cfg[name] = saved.result[name]
    for name, value in saved.result["hyperparameters"].items():
        if "${" in str(value):
            raise UserError(
                f"ckpt_path={saved.path}: {name}={value} is not a value. Train it again."
            )
        if name in cfg.method.head and name != "_target_":
            cfg.method.head[name] = value
        elif name == VIEW_WEIGHTS and name in cfg.dataset:
            cfg.dataset[name] = value


def check(saved: "Saved", dataset: str, origin: "Origin", class_names: Sequence[str]) -> None:
    """Check that a checkpoint was made for what it is to be used on.

    Args:
        saved: the checkpoint. One of an earlier version has no class names: it counts for the
            dataset that it was made with.
        dataset: the run's dataset.
        origin: what its features were computed with.
        class_names: what it tells apart, in the order of the labels.

    Raises:
        UserError: it was made for other classes, or with another backbone or other prompts.
    """
    here: dict[str, Any] = {
        "backbone": origin.backbone, "weights": origin.weights, "prompts": origin.prompts,
    }  # fmt: skip
    if saved.class_names is None:
        here["dataset"] = dataset
    elif saved.class_names != list(class_names):
        missing = [name for name in saved.class_names if name not in class_names]
        which = f"it has no {listing(missing)}" if missing else "it has others, or another order"
        raise UserError(
            f"ckpt_path={saved.path} tells {len(saved.class_names)} classes apart that are not "
            f"those of {dataset}: {which}. It was made with {saved.made_with}."
        )
    for name, value in here.items():
        made = saved.result.get(name, value)
        if made != value:
            raise UserError(
                f"ckpt_path={saved.path} was made with {name} {made}, and this run has {value}. "
                f"It was made with {saved.made_with}."
            )
