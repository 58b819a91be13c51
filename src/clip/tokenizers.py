"""The tokenizers of open_clip: CLIP's own, and those of transformers that SigLIP needs."""

import json
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from src.clip.hub import CONFIG_NAME
from src.errors import UserError

CONTEXT_LENGTH = 77
"""How many tokens a text tower reads whose configuration does not say it."""
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json",
    "vocab.txt",
)  # fmt: skip
"""Where the tokenizers of transformers keep their words; without one, some know no word at all."""


class Reading(NamedTuple):
    """How a tokenizer reads a prompt, before anything is cut off.

    Attributes:
        encode: gives the tokens of a prompt, without those around it.
        around: how many tokens stand around a prompt, such as the end of the text.
        words: splits a prompt into words, as the tokenizer cleans it.
        unknown: the tokens that stand for whatever the vocabulary lacks.
    """

    encode: Callable[[str], list[int]]
    around: int
    words: Callable[[str], list[str]]
    unknown: frozenset[int]


def reading(tokenizer: Any) -> Reading | None:
    """Say how a tokenizer of open_clip reads prompts; None if it is not one of them."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):

        def split(prompt: str) -> list[str]:
            found: list[str] = tokenizer.pat.findall(tokenizer.clean_fn(prompt))
            return found

        return Reading(tokenizer.encode, 2, split, frozenset())
    if not isinstance(tokenizer, HFTokenizer):
        return None
    inner, clean = tokenizer.tokenizer, tokenizer.clean_fn

    def encode(prompt: str, special: bool = False) -> list[int]:
        found: list[int] = inner(
            clean(prompt), add_special_tokens=special, verbose=False
        ).input_ids  # not verbose: it warns of long prompts, which are refused
        return found

    # open_clip puts a start, an end and a class token around texts itself in this mode.
    around = 3 if tokenizer.tokenizer_mode == "clips" else len(encode("", special=True))
    unknown = frozenset({inner.unk_token_id} - {None})
    return Reading(encode, around, lambda prompt: clean(prompt).split(), unknown)


def load(architecture: str, folder: Path | None = None, *, elsewhere: bool = False) -> Any:
    """Build a model's tokenizer; those of transformers are fetched from the Hub the first time.

    Code that comes with a tokenizer is refused, where transformers would ask on the terminal
    whether to run it.

    Args:
        architecture: the model, as the user named it.
        folder: where its configuration lies; None for those that open_clip knows.
        elsewhere: its tokenizer is in the repository that the configuration names, not in `folder`.

    Raises:
        UserError: transformers is not installed, the tokenizer cannot be fetched, or its files are
            missing or damaged.
    """
    import open_clip

    name = architecture if folder is None else f"local-dir:{folder}"
    text = _text_config(name, folder)
    repository = text.get("hf_tokenizer_name")
    if not repository:
        return open_clip.get_tokenizer(name)
    with _explained(architecture, str(folder or repository), folder is not None and not elsewhere):
        if not elsewhere:
            return open_clip.get_tokenizer(name)
        return open_clip.tokenizer.HFTokenizer(
            repository,
            context_length=text.get("context_length", CONTEXT_LENGTH),
            tokenizer_mode=text.get("tokenizer_mode"),
            **text.get("tokenizer_kwargs", {}),
        )


def _text_config(name: str, folder: Path | None) -> dict[str, Any]:
    """Look up what a configuration says of the text tower; nothing where it is malformed."""
    import open_clip

    try:
        if folder is None:
            config = open_clip.get_model_config(name)
        else:
            config = json.loads((folder / CONFIG_NAME).read_text())["model_cfg"]
        return dict(config["text_cfg"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return {}  # open_clip cannot read it either, and that is told


@contextmanager
def _explained(architecture: str, place: str, local: bool) -> Iterator[None]:
    """Say what is missing where a tokenizer of transformers cannot be built.

    Args:
        architecture: the model, as the user named it.
        place: the folder or the repository that the tokenizer is in.
        local: it is a folder.
    """
    try:
        from transformers import dynamic_module_utils

        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # to run what came with it is never asked
        if local and not any(Path(place, name).is_file() for name in VOCABULARIES):
            raise UserError(
                f"the folder {place} must hold the tokenizer of {architecture} as well: put "
                "tokenizer.json and tokenizer_config.json there."
            )
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{architecture} needs transformers for its tokenizer: "
            f'pip install "calipers[siglip]". ({_brief(error)})'
        ) from error
    except Exception as error:  # Files that were damaged make transformers raise anything.
        if local:
            raise UserError(
                f"the tokenizer in {place} cannot be built: {_brief(error)}. Use intact copies of "
                "its files; code of its own is not run."
            ) from error
        raise UserError(
            f"the tokenizer of {architecture} cannot be fetched from huggingface.co/{place}. Where "
            "there is a network, fetch that whole repository of the model, and set backbone."
            "architecture=local-dir:/path/to/its/folder backbone.pretrained=null. "
            f"({_brief(error)})"
        ) from error


def _brief(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", width=200, placeholder=" ...")
