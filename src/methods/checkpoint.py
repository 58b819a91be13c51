"""Lightning checkpoints of what was trained, and evaluating them again."""

import pickle
from collections.abc import Mapping
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


class Saved(NamedTuple):
    """A checkpoint: its file, the record of the run that trained it, and the weights by name."""

    path: Path
    result: dict[str, Any]
    weights: dict[str, Tensor]


def save(trainer: Trainer, method: Method, path: Path, result: Mapping[str, Any]) -> None:
    """Write the weights of `method` and the `result` that they gave, atomically."""
    method.checkpoint_extra = {RESULT: dict(result)}
    with replacing(path) as temporary:
        trainer.save_checkpoint(temporary, weights_only=True)


def read(path: Path, name: str) -> Saved:
    """Read a checkpoint that `save` wrote, of the method called `name`.

    Raises:
        UserError: the file is missing, is no such checkpoint, or belongs to another method.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved = Saved(path, dict(content[RESULT]), dict(content["state_dict"]))
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
        result = saved.result
        raise UserError(
            f"ckpt_path={saved.path} does not fit: {key} has the shape {_shape(shapes, key)}, here "
            f"it is {_shape(own, key)}. It was made with dataset={result['dataset']} "
            f"backbone={result['backbone']} shots={result['shots']} seed={result['seed']}."
        )
    method.load_state_dict(saved.weights)


def _shape(shapes: Mapping[str, torch.Size], key: str) -> str:
    return str(list(shapes[key])) if key in shapes else "absent"
