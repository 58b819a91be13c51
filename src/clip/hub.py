"""Models on the Hugging Face Hub: found in its local cache, or fetched once and checked.

A model is a configuration and weights, in the layout of open_clip. What is in the cache is used
without a request; `hf cache` removes it, and the next run fetches what is published by then.
"""

import hashlib
import json
import logging
import re
from contextlib import suppress
from pathlib import Path

from src.errors import UserError
from src.quiet import quiet

log = logging.getLogger(__name__)

HUB = "hf-hub:"
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""The safe one first, as open_clip has it; of the other, nothing is unpickled but tensors."""
CONFIG_BYTES = 1 << 20
"""No configuration is larger; a page that came in its place may be."""


def folder(architecture: str) -> Path:
    """Give the folder that holds the configuration and the weights of `hf-hub:owner/name`.

    Raises:
        UserError: the name is malformed; the model does not exist, is not open to everybody, is not
            in open_clip's layout or cannot be fetched; or what arrived is not what was published.
    """
    from huggingface_hub.errors import HFValidationError

    name = architecture.removeprefix(HUB)
    with suppress(HFValidationError):
        if name.count("/") == 1:
            return _cached(name) or _fetched(name)
    raise UserError(
        f"backbone.architecture={architecture} names no model: write {HUB}owner/name, as the "
        "Hub does."
    )


def check_file(path: Path, sha256: str) -> None:
    """Compare a cached file of SHA-256 `sha256` with the name that the cache gave it.

    The Hub's entity tag of a large file is its SHA-256, and names it in the cache.

    Raises:
        UserError: it is damaged.
    """
    stored = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", stored.name) and stored.name != sha256:
        raise UserError(
            f"{path} is not what was published, or it was damaged on this disk: remove {stored}, "
            "and it is fetched again."
        )


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, CONFIG_NAME)
    if not isinstance(config, str):
        return None
    found = Path(config).parent
    return found if any((found / one).is_file() for one in WEIGHTS_NAMES) else None


def _fetched(name: str) -> Path:
    log.info("fetching %s from %s", name, _address(name))
    config = _fetch(name, CONFIG_NAME, None)
    if config is None:
        raise UserError(
            f"{_address(name)} holds no {CONFIG_NAME}, so it is no model of open_clip. If it is a "
            "CLIP of transformers, fetch its model.safetensors, and give that file as "
            "backbone.pretrained and the architecture of open_clip that it has."
        )
    _check_config(config)
    revision = config.parent.name  # a commit: both files are of the same one
    for weights in WEIGHTS_NAMES:
        path = _fetch(name, weights, revision)
        if path is not None:
            with path.open("rb") as file:
                check_file(path, hashlib.file_digest(file, "sha256").hexdigest())
            return config.parent
    raise UserError(
        f"{_address(name)} holds neither {' nor '.join(WEIGHTS_NAMES)}: choose a model of "
        "open_clip that has weights."
    )


def _fetch(name: str, file: str, revision: str | None) -> Path | None:
    """Fetch one file into the cache; None if the repository does not hold it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        with quiet():
            if (
                revision is None
            ):  # where there is no network, a download would try for half a minute
                get_hf_file_metadata(hf_hub_url(name, file))
            return Path(hf_hub_download(name, file, revision=revision))
    except GatedRepoError as error:
        raise UserError(
            f"{_address(name)} is open only to those who accepted its terms: do so there, and log "
            f"in with `hf auth login`, or set HF_TOKEN. ({_brief(error)})"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no {_address(name)}, or it is not public: correct backbone.architecture="
            f"{HUB}{name}, or log in with `hf auth login`."
        ) from error
    except LocalEntryNotFoundError as error:
        raise _no_network(name, error.__cause__ or error) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # A network can make a client raise anything.
        raise _no_network(name, error) from error


def _no_network(name: str, error: BaseException) -> UserError:
    address = f"{_address(name)}/resolve/main"
    return UserError(
        f"cannot fetch {HUB}{name}. Where there is a network, fetch {address}/{CONFIG_NAME} and "
        f"{address}/{WEIGHTS_NAMES[0]}, put both into a folder, and set backbone.architecture="
        f"local-dir:/path/to/that/folder. ({_brief(error)})"
    )


def _check_config(path: Path) -> None:
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text())
        if not all(
            isinstance(content["model_cfg"][one], dict) for one in ("vision_cfg", "text_cfg")
        ):
            raise TypeError("vision_cfg and text_cfg are no objects")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} does not describe a model of open_clip: {_brief(error)}. Choose another "
            f"model, or remove {path.resolve()}, and it is fetched again."
        ) from error


def _address(name: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def _brief(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
