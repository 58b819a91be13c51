"""Lightning checkpoints of what was trained, and evaluating them again."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
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
CHECKSUM = "sha256"
NEEDED: Mapping[str, type | UnionType] = {
    "method": str, "dataset": str, "backbone": str, "shots": int, "seed": int, "selection": str,
    "hyperparameters": dict, "validation_accuracy": float | int | None,
}  # fmt: skip
"""What the record within a checkpoint must hold."""


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
    weights = method.state_dict()
    method.checkpoint_extra = {
        RESULT: dict(result), CLASS_NAMES: list(class_names), CHECKSUM: _checksum(weights),
    }  # fmt: skip
    with replacing(path) as temporary:
        trainer.save_checkpoint(temporary, weights_only=True)


def read(path: Path, name: str) -> Saved:
    """Read a checkpoint that `save` wrote, of the method called `name`.

    Raises:
        UserError: the file is missing, is no such checkpoint, was altered, or belongs to another
            method; or a weight is not finite.
    """
    if not path.is_file():
        raise UserError(f"the checkpoint ckpt_path={path} is missing.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged file can make torch raise anything.
        # Torch's own message advises to load whatever the file holds.
        raise _no_checkpoint(path, f"it cannot be read ({type(error).__name__})") from None
    try:
        saved = Saved(
            path, dict(content[RESULT]), content.get(CLASS_NAMES), dict(content["state_dict"])
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _no_checkpoint(path, "it holds no record of a run, or no weights") from None
    for key, kind in NEEDED.items():
        if key not in saved.result or not isinstance(saved.result[key], kind):
            raise _no_checkpoint(path, f"its record has no usable {key!r}")
    _check_weights(saved, content.get(CHECKSUM))
    method = saved.result["method"]
    if method != name:
        raise UserError(
            f"ckpt_path={path} is a checkpoint of method={method}, not of {name}: give "
            f"method={method}."
        )
    return saved


def _check_weights(saved: Saved, checksum: str | None) -> None:
    for key, weight in saved.weights.items():
        if not isinstance(weight, Tensor):
            raise _no_checkpoint(saved.path, f"{key} is no tensor")
        if weight.is_floating_point() and not weight.isfinite().all():
            raise UserError(
                f"ckpt_path={saved.path}: {key} holds NaN or infinite values. Train it again."
            )
    if checksum not in (None, _checksum(saved.weights)):
        raise UserError(
            f"ckpt_path={saved.path} is damaged: its checksum differs. Use an intact copy, or "
            "train it again."
        )


def _checksum(weights: Mapping[str, Tensor]) -> str:
    """Compute SHA-256 over the weights' names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        weight = weights[key].detach().cpu().contiguous()
        digest.update(f"{key} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(weight.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _no_checkpoint(path: Path, why: str) -> UserError:
    return UserError(f"ckpt_path={path} is not a checkpoint of a run: {why}.")


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
