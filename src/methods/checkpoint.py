"""Lightning checkpoints of what was trained, and evaluating them again."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from src.errors import UserError
from src.files import replacing
from src.methods.base import Method

FILE = "checkpoint.ckpt"
RESULT = "result"
CARRIED = ("selection", "validation_accuracy")


def save(trainer: Trainer, method: Method, path: Path, result: Mapping[str, Any]) -> None:
    """Write the weights of `method` and the `result` that they gave, atomically."""
    method.checkpoint_extra = {RESULT: dict(result)}
    with replacing(path) as temporary:
        trainer.save_checkpoint(temporary, weights_only=True)


def restore(method: Method, path: Path, name: str) -> dict[str, Any]:
    """Put the weights and the chosen settings of a checkpoint into `method`.

    Args:
        method: built as for training, from the same configuration.
        path: a file that `save` wrote.
        name: the method's name.

    Returns:
        How the settings were chosen: `selection` and `validation_accuracy`.

    Raises:
        UserError: the file is missing or no such checkpoint, or belongs to another method, or its
            weights have other shapes.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        result, weights = content[RESULT], content["state_dict"]
    except FileNotFoundError:
        raise UserError(f"the checkpoint ckpt_path={path} is missing.") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"ckpt_path={path} is not a checkpoint of a run: {error!r}.") from None
    if result["method"] != name:
        raise UserError(
            f"ckpt_path={path} is a checkpoint of method={result['method']}, not of {name}: give "
            f"method={result['method']}."
        )
    own = {key: value.shape for key, value in method.state_dict().items()}
    saved = {key: value.shape for key, value in weights.items()}
    if own != saved:
        key = next(key for key in own | saved if own.get(key) != saved.get(key))
        raise UserError(
            f"ckpt_path={path} does not fit: {key} has the shape {_shape(saved, key)}, here it is "
            f"{_shape(own, key)}. It was made with dataset={result['dataset']} "
            f"backbone={result['backbone']} shots={result['shots']} seed={result['seed']}."
        )
    method.load_state_dict(weights)
    for setting, value in result["hyperparameters"].items():
        method.set(setting, value)
    return {key: result[key] for key in CARRIED}


def _shape(shapes: Mapping[str, torch.Size], key: str) -> str:
    return str(list(shapes[key])) if key in shapes else "absent"
