"""What looks like a secret is written as `***`, wherever a run writes what it was given."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MASK = "***"

_NAME = (
    "(?:pass(?:word|wd|phrase)|(?<=[_.-])pwd|secret|token|credentials?"
    "|(?:api|access|private|secret)[_-]?key)"
)
_VALUE = r"(?!\$\{)[^\s'\",}\])&]+"
_SECRET_KEY = re.compile(rf"{_NAME}$", re.IGNORECASE)
_PATTERNS = [
    (re.compile(pattern, re.IGNORECASE), written)
    for pattern, written in (
        # https://user:password@host, and https://host?token=...
        (r"(://)[^/\s@'\"]+@", rf"\1{MASK}@"),
        (r"([?&][\w.-]*(?:token|secret|passw|signature|sig|key|credential)[\w.-]*=)[^&\s'\"#]+",
         rf"\1{MASK}"),
        # token=..., {token: ...}; what is only the name of a variable, ${oc.env:TOKEN}, stays
        (rf"({_NAME}\s*=\s*['\"]?){_VALUE}", rf"\1{MASK}"),
        (rf"([{{,]\s*['\"]?[\w.-]*{_NAME}['\"]?\s*:\s*['\"]?){_VALUE}", rf"\1{MASK}"),
        # the forms of well-known services' keys
        (r"\b(?:hf_|gh[a-z]_|github_pat_|glpat-|sk-|xox[a-z]-|AKIA|wandb_v\d_)[\w-]{16,}", MASK),
        (r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+", MASK),
    )
]  # fmt: skip
_LEAST_CHARACTERS = 6
"""A shorter value of an environment variable is too common to be looked for."""


def masked(text: str) -> str:
    """Write `***` for passwords in URLs, values of keys such as `token`, and well-known forms.

    The values of environment variables with such names are looked for everywhere, unless they are
    paths.
    """
    for name, value in os.environ.items():
        if _SECRET_KEY.search(name) and len(value) >= _LEAST_CHARACTERS and value in text:
            text = text if Path(value).exists() else text.replace(value, MASK)
    for pattern, written in _PATTERNS:
        text = pattern.sub(written, text)
    return text


def masked_tree(node: Any, key: str = "") -> Any:
    """Do so in all texts of nested dicts and lists; a key such as `token` masks its whole text."""
    match node:
        case dict():
            return {name: masked_tree(child, str(name)) for name, child in node.items()}
        case list() | tuple():
            return [masked_tree(child, key) for child in node]
        case str() if _SECRET_KEY.search(key) and node and not node.startswith("${"):
            return MASK
        case str():
            return masked(node)
    return node


def masked_overrides(overrides: Sequence[str]) -> list[str]:
    """Do so in `key=value` arguments, each of which is one value with all its spaces."""
    written = []
    for one in overrides:
        key, equals, value = one.partition("=")
        written.append(f"{key}={masked_tree(value, key)}" if equals else masked(one))
    return written
