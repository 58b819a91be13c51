"""Lightning checkpoints of what was trained, and evaluating them again."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from torch import Tensor

from src.errors import UserError
from src.files import replacing
from src.methods.base import Method

FILE = "checkpoint.ckpt"
RESULT = "result"
CLASS_NAMES = "class_names"


class Saved(NamedTuple):
    """A checkpoint.

    Attributes:
        path: its file.
        result: the record of the run that trained it.
        class_names: what it tells apart, in the order of the labels; None in those of an earlier
            version.
        weights: its weights by name.
    """

    path: Path
    result: dict[str, Any]
    class_names: list[str] | None
    weights: dict[str, Tensor]

    @property
    def made_with(self) -> str:
        """What to type to have a run that the checkpoint fits."""
        names = ("dataset", "backbone", "shots", "seed")
        return " ".join(f"{name}={self.result[name]}" for name in names)


def save(
    trainer: Trainer,
    method: Method,
    path: Path,
    result: Mapping[str, Any],
    class_names: Sequence[str],
) -> None:
    """Write the weights of `method` and the `result` that they gave, atomically."""
    method.checkpoint_extra = {RESULT: dict(result), CLASS_NAMES: list(class_names)}
    with replacing(path) as temporary:
        trainer.save_checkpoint(temporary, weights_only=True)


def read(path: Path, name: str) -> Saved:
    """Read a checkpoint that `save` wrote, of the method called `name`.

    Raises:
        UserError: the file is missing, is no such checkpoint, or belongs to another method.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        names = content.get(CLASS_NAMES)
        saved = Saved(path, dict(content[RESULT]), names, dict(content["state_dict"]))
        method = saved.result["method"]
    except FileNotFoundError:
        raise UserError(f"the checkpoint ckpt_path={path} is missing.") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"ckpt_path={path} is not a checkpoint of a run: {error!r}.") from None
    if method != name:
        raise UserError(
            f"ckpt_path={path} is a checkpoint of method={method}, not of {name}: give "
            f"method={method}."
        )
    return saved


def restore(method: Method, saved: Saved) -> None:
    """Put the weights of a checkpoint into `method`, which was built with the saved settings.

    Raises:
        UserError: its weights have other shapes.
    """
    own = {key: value.shape for key, value in method.state_dict().items()}
    shapes = {key: value.shape for key, value in saved.weights.items()}
    if own != shapes:
        key = next(key for key in own | shapes if own.get(key) != shapes.get(key))
        raise UserError(
            f"ckpt_path={saved.path} does not fit: {key} has the shape {_shape(shapes, key)}, here "
            f"it is {_shape(own, key)}. It was made with {saved.made_with}."
        )
    method.load_state_dict(saved.weights)


def _shape(shapes: Mapping[str, torch.Size], key: str) -> str:
    return str(list(shapes[key])) if key in shapes else "absent"
