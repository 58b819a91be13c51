"""Reading text files that describe datasets, and writing names in messages."""

import difflib
import errno
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from src.errors import UserError

SHOWN = 5
"""How many names a message lists at most."""


def read_lines(path: Path, remedy: str) -> list[str]:
    """Read the lines of a dataset's own text file that are not blank, stripped.

    Raises:
        UserError: as `read_file`, or it holds nothing.
    """
    lines = [line.strip() for line in read_file(path, remedy).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"the file {path} is empty. {remedy}")
    return lines


def read_json(path: Path, remedy: str) -> Any:
    """Read a dataset's own JSON file.

    Raises:
        UserError: as `read_file`, or it is no JSON.
    """
    try:
        return json.loads(read_file(path, remedy))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"the file {path} is not JSON: {error}. {remedy}") from None


def read_file(path: Path, remedy: str) -> str:
    """Read a dataset's own text file.

    Args:
        path: the file.
        remedy: how to get an intact copy, a sentence for the user.

    Raises:
        UserError: there is no such file, it cannot be read, or it is not UTF-8 (a byte-order mark
            is skipped).
    """
    try:
        return _content(path)
    except FileNotFoundError:
        raise UserError(f"the file {path} is missing. {remedy}") from None
    except OSError as error:
        raise UserError(f"cannot read the file {path}: {error.strerror}. {remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the file {path} is not text: {error}. {remedy}") from None


def _content(path: Path) -> str:
    if path.exists() and not path.is_file():  # opening a pipe would wait forever
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.read_text(encoding="utf-8-sig")


def read_text(path: Path, key: str) -> str:
    """Read a text file of the user's; `key` is the setting that names it.

    Raises:
        UserError: there is no such file, or it is not UTF-8 (a byte-order mark is skipped).
    """
    try:
        return _content(path)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {path}: {why}. Set {key} to a text file in UTF-8.") from None


def read_json_object(path: Path, key: str) -> dict[str, Any]:
    """Read a JSON object of the user's; `key` is the setting that names it.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(read_text(path, key))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}. Mend it, or change {key}.") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must hold a JSON object, {{class: ...}}: mend it, or change {key}."
        )
    return content


def readable(class_name: str) -> str:
    """Write a class name as it is read: with spaces in place of underscores."""
    return class_name.replace("_", " ")


def at_most(items: Iterable[str]) -> str:
    """Write up to `SHOWN` items in a row, and how many more there are."""
    every = list(items)
    rest = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + rest


def listing(names: Sequence[str], known: Iterable[str] = ()) -> str:
    """Name some of `names` in quotes, each with the nearest of `known` if one is near."""
    known = list(known)
    shown = []
    for name in names[:SHOWN]:
        near = difflib.get_close_matches(name, known, n=1)
        shown.append(f"{name!r} (did you mean {near[0]!r}?)" if near else repr(name))
    return at_most([*shown, *names[SHOWN:]])
