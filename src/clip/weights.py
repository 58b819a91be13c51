"""The weights of CLIP models: identifying, finding and safely loading them.

open_clip is imported only where a model is loaded: a run whose features are stored needs the
identity of the weights (`weights_id`) and nothing else.
"""

import hashlib
import json
import logging
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms import Compose

from src.clip import hub, tokenizers
from src.clip.checkpoints import load_into
from src.clip.hub import CONFIG_NAME, HUB
from src.clip.preprocessing import (
    OPENAI,
    Preprocessing,
    in_words,
    is_openais,
    marked,
    resolved,
    unlike_openais,
)
from src.errors import UserError
from src.quiet import quiet

log = logging.getLogger(__name__)

LOCAL_DIR = "local-dir:"
WEIGHTS_NAMES = (
    "open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin",
)  # fmt: skip
"""What a folder may hold, in the order of preference."""
QUICK_GELU = "-quickgelu"
RANDOM_SEED = 0


def weights_id(
    architecture: str, pretrained: str | None, preprocessing: Preprocessing = None
) -> str:
    """Identify weights, and how images are prepared for them, without importing open_clip.

    Equal ids mean equal features: a file is known by its content, wherever it lies; a tag by its
    name, which open_clip keeps for the same weights; random weights by the version of torch, whose
    initialisation decides them. A tag is not checked here. Models of the Hub are fetched.

    Raises:
        UserError: a `local-dir:` lacks its configuration or weights, a model of the Hub cannot be
            fetched or is damaged, or `pretrained` is set too.
    """
    return marked(_weights_id(architecture, pretrained), preprocessing)


def _weights_id(architecture: str, pretrained: str | None) -> str:
    checkpoint = _checkpoint(architecture, pretrained)
    if checkpoint is None:
        return f"{architecture}/{pretrained or f'random-{torch.__version__}'}"
    digest = _sha256(checkpoint)
    if architecture.startswith(HUB):
        hub.check_file(checkpoint, digest)
    if _has_config(architecture):
        return f"sha256:{_sha256(checkpoint.parent / CONFIG_NAME)}/sha256:{digest}"
    return f"{architecture}/sha256:{digest}"


def preprocessing_of(
    architecture: str, pretrained: str | None, preprocessing: Preprocessing
) -> str:
    """Say where it comes from how images are prepared: a configuration, a tag or a setting."""
    if preprocessing is not None:
        return in_words(preprocessing)
    if _has_config(architecture):
        return CONFIG_NAME
    return OPENAI if pretrained is None or Path(pretrained).is_file() else pretrained


def load_model(
    architecture: str, pretrained: str | None, preprocessing: Preprocessing = None
) -> tuple[nn.Module, Any, Compose]:  # open_clip's tokenizers share no type
    """Build a model in float32 and load its weights, downloading those of a tag.

    Nothing is unpickled but tensors. The one exception proves its origin: OpenAI's own
    TorchScript archive (`RN50.pt` and so on), accepted by its SHA-256.

    Args:
        architecture: a name known to open_clip; `local-dir:` and a folder with
            `open_clip_config.json` and one of `WEIGHTS_NAMES`; or `hf-hub:owner/name`, such a
            folder on the Hugging Face Hub.
        pretrained: a tag known to open_clip, a checkpoint file (preprocessed as OpenAI's models
            are; folders and models of the Hub state their own preprocessing), or None: the weights
            in the folder or on the Hub, otherwise random weights, always the same.
        preprocessing: how images are prepared, where not as the weights say.

    Returns:
        The model, its tokenizer, and the inference transform, PIL image to float32 `[3, H, W]`.

    Raises:
        UserError: the architecture, the tag or that of the preprocessing is unknown, the tag's
            weights were trained with the other GELU, something cannot be downloaded, a file does
            not hold weights of this architecture, or the text tower needs a package that is not
            installed.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    checkpoint = _checkpoint(architecture, pretrained)
    if _has_config(architecture) and checkpoint is not None:
        _check_trust(checkpoint.parent / CONFIG_NAME)
    else:
        _check_architecture(architecture)
    chosen = resolved(preprocessing, architecture)
    openai_archive = checkpoint is not None and _is_openai_archive(architecture, checkpoint)
    tag = "openai" if openai_archive else pretrained if checkpoint is None else None
    published = {} if tag is None else _tag_config(architecture, tag)
    with quiet():
        model, tokenizer = _build(architecture, checkpoint, preprocessing=published | chosen)
    if published and checkpoint is None:
        checkpoint = _download(architecture, str(tag), published, preprocessing)
    if checkpoint is None:
        log.warning("%s has random weights: its accuracy is that of chance", architecture)
    else:
        if tag is None and not _has_config(architecture):
            level = logging.WARNING if preprocessing is None else logging.INFO
            log.log(level, "%s", _as_read(architecture, checkpoint, preprocessing))
        _load_weights(model, architecture, checkpoint, weights_only=not openai_archive)
    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return model, tokenizer, preprocess


def _checkpoint(architecture: str, pretrained: str | None) -> Path | None:
    """Find the weights that the configuration names as a file, if it does."""
    if not _has_config(architecture):
        return Path(pretrained) if pretrained and Path(pretrained).is_file() else None
    if pretrained is not None:
        place = "its repository" if architecture.startswith(HUB) else "its folder"
        raise UserError(
            f"backbone.pretrained={pretrained} has no effect: {architecture} always loads the "
            f"weights in {place}. Set backbone.pretrained=null."
        )
    if architecture.startswith(HUB):
        folder = hub.folder(architecture)
    else:
        folder = Path(architecture.removeprefix(LOCAL_DIR))
    weights = [folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()]
    if not weights or not (folder / CONFIG_NAME).is_file():
        raise UserError(
            f"the folder {folder} must hold {CONFIG_NAME} and {' or '.join(WEIGHTS_NAMES)}: "
            "correct backbone.architecture, or put them there."
        )
    return weights[0]


def _has_config(architecture: str) -> bool:
    """Say whether a model is described by a file beside its weights, not by open_clip."""
    return architecture.startswith((LOCAL_DIR, HUB))


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
            + f"A folder of your own is {LOCAL_DIR}/path/to/folder, and a model of the Hugging "
            f"Face Hub {HUB}owner/name."
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


def _as_read(architecture: str, checkpoint: Path, preprocessing: Preprocessing) -> str:
    """Say how a file is read that holds weights and nothing about them."""
    import open_clip

    quick_gelu = open_clip.get_model_config(architecture).get("quick_gelu", False)
    prepared = "OpenAI's preprocessing"
    if preprocessing is not None:
        prepared = f"the preprocessing {in_words(preprocessing)}"
    others = unlike_openais(architecture) if preprocessing is None else []
    return (
        f"backbone.pretrained={checkpoint} does not say how its model was made. It is read with "
        f"{prepared}, and with {architecture}'s {'QuickGELU' if quick_gelu else 'GELU'}: give the "
        f"architecture with or without {QUICK_GELU} that it was trained as, and "
        "backbone.preprocessing=... if its images were prepared in another way"
        + (f" (as those of {', '.join(others)})." if others else ".")
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


def _download(
    architecture: str, tag: str, published: dict[str, Any], preprocessing: Preprocessing
) -> Path:
    import open_clip

    repository, _, name = published["hf_hub"].rpartition("/")
    source = f"https://huggingface.co/{repository}/resolve/main/{name or WEIGHTS_NAMES[0]}"
    log.info("fetching the weights of %s from %s", architecture, source)
    try:
        with quiet():
            return Path(open_clip.download_pretrained(published))
    except (OSError, RuntimeError) as error:
        # A file does not say how its images are prepared, and would get OpenAI's preprocessing.
        keep = preprocessing is None and not is_openais(published)
        settings = f" backbone.preprocessing={tag}" if keep else ""
        raise UserError(
            f"cannot download the weights of {architecture}. Fetch {source} where there is a "
            f"network, and set backbone.pretrained=/path/to/that/file{settings}. ({_brief(error)})"
        ) from error


def _build(
    architecture: str, checkpoint: Path | None, preprocessing: dict[str, Any]
) -> tuple[Any, Any]:  # a model and a tokenizer of open_clip, which has no types
    import open_clip

    on_hub = architecture.startswith(HUB)
    folder = checkpoint.parent if checkpoint and _has_config(architecture) else None
    # By the name of a model of the Hub, open_clip would ask there again.
    name = architecture if folder is None else f"{LOCAL_DIR}{folder}"
    try:
        tokenizer = tokenizers.load(architecture, folder, elsewhere=on_hub)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            model = open_clip.create_model(
                name,
                load_weights=False,
                pretrained_text=False,
                force_preprocess_cfg=preprocessing,
            )
    except OSError as error:  # of a text tower that transformers builds
        raise UserError(
            f"the text tower of {architecture} is described in another repository, which cannot be "
            f"fetched: run it once where there is a network. ({_brief(error)})"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        if folder is None:
            raise
        raise UserError(
            f"{folder}/{CONFIG_NAME} does not describe a model of open_clip: {_brief(error)}"
        ) from error
    return model, tokenizer


def _load_weights(
    model: nn.Module, architecture: str, checkpoint: Path, *, weights_only: bool
) -> None:
    try:
        with quiet():
            load_into(model, checkpoint, weights_only=weights_only)
    except Exception as error:  # A user's file can make torch or open_clip raise anything.
        raise UserError(
            f"{checkpoint} does not hold weights of {architecture}: {_brief(error)}. Give the "
            "architecture that it was made for, or an intact copy of the checkpoint."
        ) from error


def _brief(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", width=200, placeholder=" ...")
