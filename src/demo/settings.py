"""What is typed after `python -m src.demo`; imports no torch."""

import difflib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from src.errors import UserError

T = TypeVar("T")
LAST_PORT = 65535


@dataclass(frozen=True)
class Settings:
    """What is typed, as key=value.

    Attributes:
        model: the folder of a run, or its classifier/.
        host: the address to listen at; 127.0.0.1 is reached from this machine only, 0.0.0.0 from
            every machine that reaches this one.
        port: the port to listen at; 0 is any free one.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 7860

    def __post_init__(self) -> None:
        """Check what can be checked without the classifier.

        Raises:
            UserError: a setting is wrong.
        """
        if not Path(self.model).is_dir():
            raise UserError(
                f"model={self.model} is no folder: give that of a run that ended, or its "
                "classifier/."
            )
        if not 0 <= self.port <= LAST_PORT:
            raise UserError(f"port={self.port}: give a number from 1 to {LAST_PORT}, or 0.")


def read(kind: type[T], arguments: Sequence[str]) -> T:
    """Read the settings of a command line into a dataclass; text is taken as it stands.

    Args:
        kind: a dataclass whose fields are text and integers.
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
        try:
            values[name] = int(text) if known[name].type is int else text
        except ValueError:
            raise UserError(f"{argument}: give an integer.") from None
    for name, one in known.items():
        if one.default is MISSING and not values.get(name):
            raise UserError(f"{name}=... is missing: `--help` says what it takes.")
    return kind(**values)
