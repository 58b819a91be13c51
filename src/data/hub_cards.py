"""What a dataset of the Hub says of its configurations: on its card, or by its files' names."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from src.data.text_files import listing
from src.errors import UserError
from src.masking import masked

CARD = "README.md"
"""A dataset's card."""

Files = Mapping[str, list[str]]
"""Patterns of the files of each split, below the dataset's folder."""


class Configurations(NamedTuple):
    """What a dataset's card says of its configurations.

    Attributes:
        files: of each, or None where the card does not name them.
        default: the one that is meant where none is named, if there is such a one.
    """

    files: Mapping[str, Files | None]
    default: str | None


def configurations(card: Path) -> Configurations:
    """Read the configurations that a dataset's card (README.md) lists.

    Raises:
        UserError: it cannot be read, or names files elsewhere.
    """
    from huggingface_hub import DatasetCard

    try:
        content = DatasetCard.load(card, ignore_metadata_errors=True).data.get("configs") or []
        listed = {str(one["config_name"]): one for one in content}
        files = {name: _files(one) for name, one in listed.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{card} lists no configurations as the Hub does: {brief(error)}. Mend it."
        ) from error
    for name, patterns in files.items():
        for one in chain(*(patterns or {}).values()):
            if "://" in one or one.startswith(("/", "~")) or ".." in PurePosixPath(one).parts:
                raise UserError(
                    f"{card}: the configuration {name!r} names files elsewhere ({one}); only those "
                    "of the dataset itself are read."
                )
    marked = [name for name, one in listed.items() if one.get("default") or len(listed) == 1]
    default = marked[0] if marked else "default" if "default" in listed else None
    return Configurations(files, default)


def converted_by_hub(names: Sequence[str]) -> Configurations:
    """Read the configurations off the names that the Hub gives what it made of other files.

    Args:
        names: `<configuration>/<split>/0000.parquet` and so on; if there are others, there are no
            configurations.
    """
    matches = [re.fullmatch(r"([^/]+)/([^/]+)/\d{4}\.parquet", name) for name in sorted(names)]
    files: dict[str, dict[str, list[str]]] = {}
    for match in matches:
        if match is None:
            return Configurations({}, None)
        files.setdefault(match[1], {}).setdefault(match[2], []).append(match[0])
    default = next(iter(files)) if len(files) == 1 else "default" if "default" in files else None
    return Configurations(files, default)


def _files(entry: Mapping[str, Any]) -> Files | None:
    given = entry.get("data_files")
    if given is None:
        return None
    if isinstance(given, str) or all(isinstance(one, str) for one in given):
        given = [{"split": "train", "path": given}]
    top = f"{entry['data_dir']}/" if entry.get("data_dir") else ""
    return {
        str(one["split"]): [
            top + pattern.removeprefix("./")
            for pattern in ([one["path"]] if isinstance(one["path"], str) else one["path"])
        ]
        for one in given
    }


def choose(
    configs: Configurations, given: str | None, origin: str
) -> tuple[str | None, Files | None]:
    """Give the name of a configuration and the patterns of its files, where the card has them.

    Raises:
        UserError: there is no such configuration, or one must be chosen.
    """
    names = list(configs.files)
    if given is None and names and configs.default is None:
        raise UserError(
            f"{origin} has several configurations: choose one by dataset.config=... There are "
            f"{listing(names)}."
        )
    if given is not None and given not in names:
        known = f"There are {listing(names)}." if names else "It has none: leave it out."
        raise UserError(f"{origin} has no configuration {given!r}. {known}")
    name = configs.default if given is None else given
    return name, None if name is None else configs.files[name]


def brief(error: BaseException) -> str:
    """Say in one line, without what looks like a secret, what an error says."""
    return masked(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
