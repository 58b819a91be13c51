"""The folder of a classifier: what stands in it, written and read.

`classifier.json` says what it is, and `head.safetensors` holds what the head has learned and was
given: no copy of CLIP, no pickle, and nothing that names code. Which class is built follows from
the method's name, by the project's own YAML of that name.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from src.data.text_files import read_json
from src.errors import UserError
from src.files import replacing, write_json
from src.heads.base import Head
from src.results.conformal import SCORES

FOLDER = "classifier"
ABOUT, STATE = "classifier.json", "head.safetensors"
FORMAT = 1
"""The folder's version; a later one is refused."""
OF_CLIP = ("text_tower", "projection", "projection_bias")
"""What a head may be given that is CLIP's own: not written, but taken from the backbone again."""
GIVEN, LEARNED = "given.", "state."
"""What the names of tensors begin with."""


@dataclass(frozen=True)
class About:
    """What a classifier is, as its JSON holds it.

    Attributes:
        method: its name.
        settings: those of the head, with which it was tested.
        view_weights: of depth maps; None for photographs.
        class_names: in the order of the labels.
        prompts: of each class; empty if they are not known.
        logit_scale: the factor on cosine similarities.
        logit_bias: what models trained with a sigmoid add to the scaled similarities, before it; 0
            for others. It changes neither which class is the best nor softmax probabilities.
        backbone: its name.
        architecture: open_clip's name, or `local-dir:` and a folder.
        pretrained: the tag or file of its weights; None where the architecture has its own.
        preprocessing: how images are prepared, where not as the weights say.
        weights: the identity of the weights, by which another copy of them is known.
        precision: Lightning's name of that in which CLIP computes.
        inputs: the features that the head takes.
        adapted_on: dataset, shots, seed, selection, accuracy and its 95 % interval (Wilson), and
            the number of test images.
        points: of a point cloud, how many are read; None for photographs.
        temperature: probabilities are softmax(logits / temperature); 1 unless it was calibrated.
        conformal: how sets of classes are made: the score, the coverage and the threshold that
            `src.results.conformal` reads; None if it was not calibrated.
        licence: what is known of that of the weights.
        checksum: SHA-256 of the tensors.
        format: the folder's version.
    """

    method: str
    settings: dict[str, Any]
    view_weights: list[float] | None
    class_names: list[str]
    prompts: list[list[str]]
    logit_scale: float
    backbone: str
    architecture: str
    pretrained: str | None
    weights: str
    precision: str
    inputs: list[str]
    adapted_on: dict[str, Any]
    logit_bias: float = 0.0
    preprocessing: str | dict[str, Any] | None = None
    points: int | None = None
    temperature: float = 1.0
    conformal: dict[str, Any] | None = None
    licence: str = ""
    checksum: str = ""
    format: int = FORMAT


def save(folder: Path, about: About, head: Head, given: Mapping[str, Any]) -> None:
    """Write a classifier, atomically file by file, its description last.

    Args:
        folder: it is made, or what it holds is replaced.
        about: what it is; the checksum is added.
        head: as it was tested.
        given: what the head was built from, by the names of `Head.given`.
    """
    tensors = {LEARNED + key: value for key, value in head.state_dict().items()}
    tensors |= {
        GIVEN + name: value
        for name, value in given.items()
        if isinstance(value, Tensor) and name not in OF_CLIP
    }
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(folder / STATE) as temporary:
        save_file(kept, temporary)
    write_json(folder / ABOUT, _signed(asdict(about) | {"checksum": _checksum(kept)}))


def read_about(path: Path) -> About:
    """Read a description.

    Raises:
        UserError: it is missing, was altered, or is of a later version.
    """
    content = read_json(
        path,
        "Give the folder of a run that ended, or its classifier/. Methods that look at test images "
        "together, or at crops of them, leave none.",
    )
    try:
        version, signature = int(content["format"]), content.pop("signature")
        if version > FORMAT:
            raise UserError(
                f"{path} was written by a newer version of Calipers (format {version}, this one "
                f"reads up to {FORMAT}): update Calipers."
            )
        if signature != _signed(content)["signature"]:
            raise UserError(f"{path} was altered, or is damaged: use an intact copy.")
        from pydantic import TypeAdapter

        known = {one.name for one in fields(About)}
        about: About = TypeAdapter(About).validate_json(
            json.dumps({name: value for name, value in content.items() if name in known}),
            strict=True,
        )
        _check_calibration(about)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).partition(" [type=")[0]
        raise UserError(f"{path} does not describe a classifier: {reason}.") from None
    return about


def _check_calibration(about: About) -> None:
    if not 0 < about.temperature < math.inf:
        raise ValueError(f"the temperature is {about.temperature}")
    if about.conformal is not None:
        threshold, score = about.conformal["threshold"], about.conformal["score"]
        if score not in SCORES or not (threshold is None or math.isfinite(threshold)):
            raise ValueError(f"there are no sets by {score!r} up to {threshold!r}")


def read_state(path: Path, about: About) -> dict[str, Tensor]:
    """Read the tensors that belong to a description, by name.

    Raises:
        UserError: they cannot be read, or are others.
    """
    try:
        with safe_open(path, framework="pt"):
            tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}. Use an intact copy.") from None
    if _checksum(tensors) != about.checksum:
        raise UserError(f"{path} was altered, or is damaged: its checksum differs.")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _signed(content: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps(content, sort_keys=True)
    return {**content, "signature": hashlib.sha256(text.encode()).hexdigest()}
