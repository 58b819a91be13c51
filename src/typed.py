"""Settings that are typed as key=value, for the commands that Hydra does not start."""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from src.errors import UserError

T = TypeVar("T")
TRUTH = {"true": True, "false": False}
NEEDED = {int: "an integer", float: "a number", bool: "true or false"}


def read(kind: type[T], arguments: Sequence[str]) -> T:
    """Read the settings of a command line into a dataclass; text is taken as it stands.

    Args:
        kind: a dataclass whose fields are text, numbers or booleans.
        arguments: key=value each; of one that is typed twice, the last holds.

    Raises:
        UserError: there is no such setting, a value is none of its type, or one is missing.
    """
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for argument in arguments:
        name, sign, text = argument.partition("=")
        if name not in known or not sign:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}=...?" if near else ""
            raise UserError(
                f"there is no setting {argument!r}.{hint} Settings are typed as key=value, and "
                "`--help` lists them."
            )
        values[name] = _value(name, text, known[name].type)
    for name, one in known.items():
        if one.default is MISSING and not values.get(name):
            raise UserError(f"{name}=... is missing: `--help` says what it takes.")
    return kind(**values)


def read_command_line(kind: type[T], about: str | None) -> T:
    """Read what was typed; `--help` prints what a command is about and its settings, and ends it.

    Raises:
        UserError: as `read`.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{about}\n{kind.__doc__}")
        raise SystemExit(0)
    return read(kind, sys.argv[1:])


def check_model(folder: str) -> None:
    """Check that `model=` names a folder, before anything heavy is imported.

    Raises:
        UserError: it does not.
    """
    if not Path(folder).is_dir():
        raise UserError(
            f"model={folder} is no folder: give that of a run that ended, or its classifier/."
        )


def _value(name: str, text: str, kind: Any) -> Any:
    try:
        return TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise UserError(f"{name}={text}: give {NEEDED[kind]}.") from None
