"""The classifier that a run leaves: a folder from which it is built again, without the data.

`classifier.json` says what it is, and `head.safetensors` holds what the head has learned and was
given: no copy of CLIP, no pickle, and nothing that names code. Which class is built follows from
the method's name, by the project's own YAML of that name.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.clip.model import FrozenClip
from src.clip.text_tower import TextTower
from src.clip.weights import LOCAL_DIR, weights_id
from src.config import method_yaml
from src.data.text_files import read_json
from src.errors import UserError
from src.files import ROOT, replacing, write_json
from src.heads.base import Head, check
from src.heads.multi_view import MultiView

FOLDER = "classifier"
ABOUT, STATE = "classifier.json", "head.safetensors"
FORMAT = 1
"""The folder's version; a later one is refused."""
OF_CLIP = ("text_tower", "projection", "projection_bias")
"""What a head may be given that is CLIP's own: taken from the backbone when it is built again."""
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
        backbone: its name.
        architecture: open_clip's name, or `local-dir:` and a folder.
        pretrained: the tag or file of its weights; None where the architecture has its own.
        weights: the identity of the weights, by which another copy of them is known.
        precision: Lightning's name of that in which CLIP computes.
        inputs: the features that the head takes.
        adapted_on: dataset, shots, seed, selection, accuracy and its 95 % interval (Wilson), and
            the number of test images.
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
    checksum: str = ""
    format: int = FORMAT


class Classifier:
    """A head with the backbone that its features come from.

    Attributes:
        about: what it is.
        head: in evaluation mode.
        clip: the frozen CLIP, float32.
    """

    def __init__(self, about: About, head: Head, clip: FrozenClip) -> None:
        self.about, self.head, self.clip = about, head, clip

    @torch.no_grad()
    def probabilities(self, features: Mapping[str, Tensor]) -> Float[Tensor, "n c"]:
        """Compute the probability of each class from the features that `about.inputs` names.

        Features pass through float16, as those of the run did that the store gave: the answers are
        the run's own.
        """
        inputs = [features[name].half().float() for name in self.about.inputs]
        logits: Tensor = self.head(*inputs)
        return logits.softmax(dim=-1)


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


def load(folder: Path) -> Classifier:
    """Build a classifier from its folder, or from that of the run which left it.

    Raises:
        UserError: the folder is no classifier, was altered, is of a later version, or belongs to
            weights that are not here.
    """
    folder = folder if (folder / ABOUT).is_file() else folder / FOLDER
    about = _read_about(folder / ABOUT)
    tensors = _read_state(folder / STATE, about)
    architecture = _here(about.architecture)
    if weights_id(architecture, about.pretrained) != about.weights:
        raise UserError(
            f"{folder} belongs to {about.backbone} with the weights {about.weights}, and those of "
            f"{architecture} here are others: get the weights that it was made with."
        )
    clip = FrozenClip.load(architecture, about.pretrained)
    head = _build(folder, about, tensors, clip)
    return Classifier(about, head.eval(), clip)


def _read_about(path: Path) -> About:
    content = read_json(path, "Give the folder of a run that ended, or its classifier/.")
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
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).partition(" [type=")[0]
        raise UserError(f"{path} does not describe a classifier: {reason}.") from None
    return about


def _read_state(path: Path, about: About) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt"):
            tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}. Use an intact copy.") from None
    if _checksum(tensors) != about.checksum:
        raise UserError(f"{path} was altered, or is damaged: its checksum differs.")
    return tensors


def _build(folder: Path, about: About, tensors: Mapping[str, Tensor], clip: FrozenClip) -> Head:
    head_class = _head_class(folder, about.method)
    check(head_class, about.settings)
    known: dict[str, Any] = {
        "class_names": about.class_names,
        "logit_scale": about.logit_scale,
        "n_views": None if about.view_weights is None else len(about.view_weights),
    }
    known |= {name.removeprefix(GIVEN): t for name, t in tensors.items() if name.startswith(GIVEN)}
    given = {
        name: known[name] if name in known else _of_clip(name, clip) for name in head_class.given
    }
    head: Head = head_class(**given, **about.settings)
    if about.view_weights is not None:
        head = MultiView(head, about.view_weights)
    for name, tensor in tensors.items():
        if name.startswith(LEARNED):
            _put(head, name.removeprefix(LEARNED), tensor)
    return head


def _of_clip(name: str, clip: FrozenClip) -> Any:
    if name == "text_tower":
        return TextTower(clip)
    weight, bias = clip.projection
    return {"projection": weight, "projection_bias": bias}[name].clone()


def _put(head: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a head a tensor that it has, or that it would have once it had seen a support set.

    Raises:
        UserError: it has something else of that name.
    """
    path, _, leaf = name.rpartition(".")
    modules = dict(head.named_modules())
    module = modules.get(path)
    if module is not None and leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    elif module is not None and (leaf in module._buffers or not hasattr(module, leaf)):
        module.register_buffer(leaf, tensor)
    else:
        raise UserError(
            f"the classifier holds a tensor that this head does not have: {name!r}. Use an intact "
            "copy."
        )


def _head_class(folder: Path, method: str) -> Any:
    """Find the head's class by the method's own YAML."""
    own = method_yaml(method)
    if "head" not in own:
        raise UserError(f"{folder} is of method={method}, which there is not here.")
    return get_class(own.head["_target_"])


def wilson_interval(accuracy: float, n: int, z: float = 1.96) -> list[float]:
    """Compute the 95 % interval (per cent) of an accuracy (per cent) on `n` images."""
    p, share = accuracy / 100, z * z / n
    centre, half = p + share / 2, z * ((p * (1 - p) + share / 4) / n) ** 0.5
    return [100 * (centre - half) / (1 + share), 100 * (centre + half) / (1 + share)]


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


def portable(architecture: str) -> str:
    """Write the folder of a backbone that comes with Calipers as it is on every machine."""
    return architecture.replace(f"{LOCAL_DIR}{ROOT}/", LOCAL_DIR)


def _here(architecture: str) -> str:
    folder = ROOT / architecture.removeprefix(LOCAL_DIR)
    own = architecture.startswith(LOCAL_DIR) and folder.is_dir()
    return f"{LOCAL_DIR}{folder}" if own else architecture
