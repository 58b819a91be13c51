"""Class names that a user's data brings: read from a file, and checked for use in prompts."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from src.data.text_files import listing, read_json_object, read_text, readable
from src.errors import UserError

KEY = "dataset.class_names"

log = logging.getLogger(__name__)


def check_names(names: Sequence[str]) -> None:
    """Check what becomes of the class names in prompts.

    Names that say nothing to CLIP, which are numbers and WordNet's ids, are warned of once.

    Raises:
        UserError: two are alike there; one of them could never be predicted.
    """
    in_prompt = [_as_in_prompt(name) for name in names]
    often = Counter(in_prompt)
    alike = sorted(
        (words, name) for words, name in zip(in_prompt, names, strict=True) if often[words] > 1
    )
    if alike:
        raise UserError(
            "several classes have the same name in a prompt, where CLIP knows neither capitals nor "
            f"underscores: {listing([name for _, name in alike])}. Rename or join them, or name "
            f"each by {KEY}=FILE."
        )
    if codes := [name for name in names if re.fullmatch(r"n\d{8}|\d+", name)]:
        log.warning(
            "%s: a prompt such as 'a photo of a %s.' says nothing to CLIP. Give the names by "
            "%s=FILE.",
            listing(codes),
            codes[0],
            KEY,
        )


def read_names(labels: Sequence[str], path: Path) -> list[str]:
    """Read the name of each of `labels` from `dataset.class_names`.

    Args:
        labels: what the data calls its classes.
        path: a JSON object {label: name}, or a text file with a label and its name on each line.

    Returns:
        The names, in the order of `labels`.

    Raises:
        UserError: the file cannot be read, or has no name for a label.
    """
    if path.suffix.lower() == ".json":
        names = read_json_object(path, KEY)
    else:
        lines = [line.split(maxsplit=1) for line in read_text(path, KEY).splitlines()]
        names = {first: "".join(rest).strip() for first, *rest in filter(None, lines)}
    missing = [label for label in labels if label not in names]
    if missing:
        raise UserError(
            f"{path} has no class name for {listing(missing, names)}: {KEY} must name every class."
        )
    for label in labels:
        if not isinstance(names[label], str) or not names[label].strip():
            raise UserError(f"{path} gives {label!r} no class name: write one behind it.")
    return [names[label] for label in labels]


def _as_in_prompt(name: str) -> str:
    """Write a name as CLIP's tokenizer sees it: lower case, single spaces."""
    return " ".join(readable(name).lower().split())
