"""The weights of CLIP models: identifying, finding and safely loading them.

open_clip is imported only where a model is loaded: a run whose features are stored needs the
identity of the weights (`weights_id`) and nothing else.
"""

import hashlib
import json
import logging
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms import Compose

from src.errors import UserError

log = logging.getLogger(__name__)

LOCAL_DIR = "local-dir:"
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAMES = ("open_clip_model.safetensors", "model.safetensors")  # open_clip's preference
QUICK_GELU = "-quickgelu"
RANDOM_SEED = 0


def weights_id(architecture: str, pretrained: str | None) -> str:
    """Identify weights without loading them, and without importing open_clip.

    Equal ids mean equal features: a file is known by its content, wherever it lies; a tag by its
    name, which open_clip keeps for the same weights; random weights by the version of torch, whose
    initialisation decides them. A tag is not checked here.

    Raises:
        UserError: a `local-dir:` lacks its configuration or weights, or `pretrained` is set too.
    """
    checkpoint = _checkpoint(architecture, pretrained)
    if checkpoint is None:
        return f"{architecture}/{pretrained or f'random-{torch.__version__}'}"
    if architecture.startswith(LOCAL_DIR):
        return f"sha256:{_sha256(checkpoint.parent / CONFIG_NAME)}/sha256:{_sha256(checkpoint)}"
    return f"{architecture}/sha256:{_sha256(checkpoint)}"


def load_model(
    architecture: str, pretrained: str | None
) -> tuple[nn.Module, Any, Compose]:  # open_clip's tokenizers share no type
    """Build a model in float32 and load its weights, downloading those of a tag.

    Nothing is unpickled but tensors. The one exception proves its origin: OpenAI's own
    TorchScript archive (`RN50.pt` and so on), accepted by its SHA-256.

    Args:
        architecture: a name known to open_clip, or `local-dir:` and a folder with
            `open_clip_config.json` and `open_clip_model.safetensors` (or `model.safetensors`).
        pretrained: a tag known to open_clip, a checkpoint file (preprocessed as OpenAI's models
            are; a `local-dir:` states its own preprocessing), or None: the weights in the
            `local-dir:`, otherwise random weights, always the same.

    Returns:
        The model, its tokenizer, and the inference transform, PIL image to float32 `[3, H, W]`.

    Raises:
        UserError: the architecture or the tag is unknown, the tag's weights were trained with the
            other GELU or cannot be downloaded, a file does not hold weights of this architecture,
            or the text tower needs a package that is not installed.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    checkpoint = _checkpoint(architecture, pretrained)
    if architecture.startswith(LOCAL_DIR):
        _check_trust(Path(architecture.removeprefix(LOCAL_DIR)) / CONFIG_NAME)
    else:
        _check_architecture(architecture)
    openai_archive = checkpoint is not None and _is_openai_archive(architecture, checkpoint)
    tag = "openai" if openai_archive else pretrained if checkpoint is None else None
    published = {} if tag is None else _tag_config(architecture, tag)
    with _quiet():
        model, tokenizer = _build(architecture, preprocessing=published)
    if published and checkpoint is None:
        checkpoint = _download(architecture, published)
    if checkpoint is None:
        log.warning("%s has random weights: its accuracy is that of chance", architecture)
    else:
        if tag is None and not architecture.startswith(LOCAL_DIR):
            log.warning("%s", _as_openai(architecture, checkpoint))
        _load_weights(model, architecture, checkpoint, weights_only=not openai_archive)
    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return model, tokenizer, preprocess


def _checkpoint(architecture: str, pretrained: str | None) -> Path | None:
    """Find the weights that the configuration names as a file, if it does."""
    if not architecture.startswith(LOCAL_DIR):
        return Path(pretrained) if pretrained and Path(pretrained).is_file() else None
    if pretrained is not None:
        raise UserError(
            f"backbone.pretrained={pretrained} has no effect: {architecture} always loads the "
            "weights in its folder. Set backbone.pretrained=null."
        )
    folder = Path(architecture.removeprefix(LOCAL_DIR))
    weights = [folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()]
    if not weights or not (folder / CONFIG_NAME).is_file():
        raise UserError(
            f"the folder {folder} must hold {CONFIG_NAME} and {' or '.join(WEIGHTS_NAMES)}: "
            "correct backbone.architecture, or put them there."
        )
    return weights[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_architecture(architecture: str) -> None:
    import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        near = get_close_matches(architecture, known, n=3, cutoff=0.4)
        raise UserError(
            f"open_clip knows no backbone.architecture={architecture}. "
            + (f"Near it: {', '.join(near)}. " if near else "")
            + f"A folder of your own is {LOCAL_DIR}/path/to/folder."
        )


def _check_trust(path: Path) -> None:
    """Refuse a model's description that would have code run which came with it.

    Raises:
        UserError: it would.
    """
    try:
        content = [json.loads(path.read_text())]
    except (OSError, ValueError, RecursionError):
        return  # open_clip cannot read it either, and that is told
    if any(key == "trust_remote_code" and value for key, value in _items(content)):
        raise UserError(
            f"{path} wants trust_remote_code, which lets a model's own code run here: remove it, "
            "or choose another backbone."
        )


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    """Go through the keys and values of nested dicts and lists."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in pairs:
        yield key, value
        if isinstance(value, dict | list):
            yield from _items(value)


def _is_openai_archive(architecture: str, checkpoint: Path) -> bool:
    """Tell whether a file is, byte by byte, the one that OpenAI published for an architecture."""
    import open_clip

    url = open_clip.get_pretrained_url(architecture, "openai")  # holds the file's SHA-256
    return checkpoint.suffix == ".pt" and _sha256(checkpoint) in url


def _as_openai(architecture: str, checkpoint: Path) -> str:
    """Say how a file is read that holds weights and nothing about them."""
    import open_clip

    quick_gelu = open_clip.get_model_config(architecture).get("quick_gelu", False)
    return (
        f"backbone.pretrained={checkpoint} does not say how its model was made. It is read with "
        f"OpenAI's preprocessing, and with {architecture}'s {'QuickGELU' if quick_gelu else 'GELU'}"
        f": give the architecture with or without {QUICK_GELU} that it was trained as, or a "
        f"{LOCAL_DIR} with a preprocessing of its own."
    )


def _tag_config(architecture: str, tag: str) -> dict[str, Any]:
    """Look up where a tag's weights are and how they want images, and check their GELU.

    open_clip only warns when the activation of the architecture is not the one that the weights
    were trained with, and then computes wrong features.
    """
    import open_clip

    twin = (
        architecture.removesuffix(QUICK_GELU)
        if architecture.endswith(QUICK_GELU)
        else architecture + QUICK_GELU
    )
    config: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag)
    quick_gelu = open_clip.get_model_config(architecture).get("quick_gelu", False)
    trained_as_twin = not config or config.get("quick_gelu", False) != quick_gelu
    if trained_as_twin and open_clip.is_pretrained_cfg(twin, tag):
        raise UserError(
            f"the weights {tag} were trained with {'GELU' if quick_gelu else 'QuickGELU'}, "
            f"{architecture} computes {'QuickGELU' if quick_gelu else 'GELU'}: "
            f"use backbone.architecture={twin}."
        )
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UserError(
            f"backbone.pretrained={tag} is neither a file nor a tag of {architecture}, "
            f"which has {', '.join(tags) or 'none'}."
        )
    return config


def _download(architecture: str, published: dict[str, Any]) -> Path:
    import open_clip

    repository, _, name = published["hf_hub"].rpartition("/")
    source = f"https://huggingface.co/{repository}/resolve/main/{name or WEIGHTS_NAMES[0]}"
    log.info("fetching the weights of %s from %s", architecture, source)
    try:
        with _quiet():
            return Path(open_clip.download_pretrained(published))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download the weights of {architecture}. Fetch {source} where there is a "
            f"network, and set backbone.pretrained=/path/to/that/file. ({_brief(error)})"
        ) from error


def _build(
    architecture: str, preprocessing: dict[str, Any]
) -> tuple[Any, Any]:  # a model and a tokenizer of open_clip, which has no types
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(architecture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            model = open_clip.create_model(
                architecture,
                load_weights=False,
                pretrained_text=False,
                force_preprocess_cfg=preprocessing,
            )
    except (ImportError, OSError) as error:
        raise UserError(
            f"the text tower of {architecture} needs the package transformers (`pip install "
            f"transformers`) and a network, the first time. ({_brief(error)})"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        if not architecture.startswith(LOCAL_DIR):
            raise
        folder = architecture.removeprefix(LOCAL_DIR)
        raise UserError(
            f"{folder}/{CONFIG_NAME} does not describe a model of open_clip: {_brief(error)}"
        ) from error
    return model, tokenizer


def _load_weights(
    model: nn.Module, architecture: str, checkpoint: Path, *, weights_only: bool
) -> None:
    import open_clip

    try:
        with _quiet():
            open_clip.load_checkpoint(model, str(checkpoint), weights_only=weights_only)
    except Exception as error:  # A user's file can make torch or open_clip raise anything.
        raise UserError(
            f"{checkpoint} does not hold weights of {architecture}: {_brief(error)}. Give the "
            "architecture that it was made for, or an intact copy of the checkpoint."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what open_clip and torch log and warn about; the code here says what matters."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _brief(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", width=200, placeholder=" ...")
