"""Checkpoint files into a model of open_clip. Nothing is unpickled but tensors."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from src.clip.transformers_layout import is_in_layout, to_open_clip

SAFE = ".safetensors"
BIG_VISION = (".npz", ".npy")
WRAPPED = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before the names of weights."""
HF_POSITIONS = "text.transformer.embeddings.position_ids"
"""What text towers of transformers had before its version 4.31."""


def load_into(model: nn.Module, path: Path, *, weights_only: bool) -> None:
    """Give a model of open_clip the weights of a file.

    Read are safetensors and files of `torch.save`: weights by name, or a checkpoint of a training
    that has them as `state_dict` beside its optimizer; by the names of open_clip, or those of
    transformers' `CLIPModel`. big_vision's arrays are read by open_clip.

    Args:
        model: with the shapes that the file has; only embeddings of positions are resized.
        path: the file.
        weights_only: refuse everything but tensors and plain containers of them. False is for
            files whose origin is proven.

    Raises:
        Exception: whatever torch, safetensors or open_clip raise over a file that is damaged, of
            another model, or holds more than weights.
    """
    import open_clip

    if path.suffix in BIG_VISION or not weights_only:
        open_clip.load_checkpoint(model, str(path), weights_only=weights_only)
        return
    state = _by_their_names(path)
    if is_in_layout(state):
        state = to_open_clip(state)
    _put(model, state)


def _by_their_names(path: Path) -> dict[str, Tensor]:
    """Read a file's weights, without what a wrapper put before their names.

    Raises:
        ValueError: it holds none.
    """
    if path.suffix == SAFE:
        content: Any = load_file(path)
    else:
        content = _of_torch(path)
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError("there are no weights in it")
    if strange := [key for key, value in content.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{strange[0]!r} is no tensor in it")
    state = {str(key): value for key, value in content.items()}
    for prefix in WRAPPED:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _of_torch(path: Path) -> Any:
    """Read a file of `torch.save` that holds nothing but tensors and plain containers.

    Raises:
        ValueError: it holds more.
    """
    # With mmap, an optimizer's state, twice as large as the weights, stays on the disk.
    on_disk = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=on_disk)
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"it holds more than weights, {named[1]}, which is not unpickled here. Where you "
                "trust it, save its state_dict alone"
            ) from error
        raise
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise ValueError(
                "it is a TorchScript archive, which holds code, and not one of OpenAI's, which are "
                "known by their checksums. Where you trust it, save its state_dict alone"
            ) from error
        raise


def _put(model: Any, state: dict[str, Tensor]) -> None:
    """Load weights as open_clip does: older names renamed, embeddings of positions resized."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        if name in state and getattr(model, name, None) is not None:
            state[name] = state[name].reshape(getattr(model, name).shape)  # a number or [1]
    if HF_POSITIONS not in model.state_dict():
        state.pop(HF_POSITIONS, None)
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    model.load_state_dict(state)
