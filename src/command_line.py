"""How a command ends: a user's mistake in one message, a bug in its traceback."""

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.masking import masked

if TYPE_CHECKING:
    from rich.console import Console

UNWRITABLE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
UNUSABLE = {errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}

CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
"""All of them but tab and newline."""

WITHOUT_LIMIT = 10_000
"""How many characters a line may have where there is no terminal."""

EXPLANATIONS: list[Callable[[Exception], str | None]] = []
"""What other modules add to `explain`, each for the exceptions of a library that it uses."""


ENDED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
RECEIVED: list[signal.Signals] = []
"""Which of them came."""


class Terminated(SystemExit):
    """The program was told to end (SIGTERM), as Slurm and containers do: exit code 143."""


def run_command(main: Callable[[], None]) -> None:
    """Run a command line; a user's mistake ends it with one message and exit code 2.

    Bugs keep their traceback: Hydra's own shortening of tracebacks is switched off. What ends it
    from outside has the shell's exit code: 130 for SIGINT, 143 for SIGTERM, 141 for a reader that
    closed the output.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _interrupt)
    logging.raiseExceptions = False  # on a full disk, each line of a log would be a traceback
    try:
        try:
            with explaining():
                main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception:
        # An interrupted import can end in any exception.
        if RECEIVED:
            print(ENDED[RECEIVED[0]], file=sys.stderr)
            raise SystemExit(128 + RECEIVED[0]) from None
        raise
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, Terminated):
            print("terminated", file=sys.stderr)
        elif signal.SIGINT in RECEIVED or _interrupted(ended):
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        raise


def _interrupt(*_: Any) -> None:
    RECEIVED.append(signal.SIGINT)
    raise KeyboardInterrupt


def _terminate(*_: Any) -> None:
    RECEIVED.append(signal.SIGTERM)
    raise Terminated(143)


def _interrupted(ended: BaseException | None) -> bool:
    """Say whether a KeyboardInterrupt is behind an exception: Lightning turns it into `exit(1)`."""
    while ended is not None and not isinstance(ended, KeyboardInterrupt):
        ended = ended.__context__
    return ended is not None


def make_console() -> "Console":
    """Make a console for tables: as wide as the terminal or as `COLUMNS` says.

    Where there is neither, as in a file, nothing limits a table, and nothing needs to be cut.
    """
    from rich.console import Console

    console = Console()
    limited = console.is_terminal or "COLUMNS" in os.environ
    return console if limited else Console(width=WITHOUT_LIMIT)


@contextmanager
def explaining() -> Iterator[None]:
    """Let a user's mistake end the program with one message; bugs keep their traceback."""
    try:
        yield
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        fail(message)


def fail(message: str) -> None:
    """Print one message to stderr and exit with code 2; no line after its first stands alone."""
    first, *rest = printable(masked(message)).split("\n")
    indented = [line if line.startswith("  ") else f"  {line}" for line in rest]
    print("\n".join([f"error: {first}", *indented]), file=sys.stderr)
    raise SystemExit(2)


class Formatter(logging.Formatter):
    """Writes log records without secrets and control characters, on the screen and in `run.log`."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(masked(super().format(record)))


def printable(text: str) -> str:
    """Write control characters as their numbers, lest names and messages steer a terminal."""
    return text.translate(CONTROL)


def explain(error: Exception) -> str | None:
    """Say what the user can mend, or None if the exception is a bug."""
    match error:
        case UserError():
            return str(error)
        case OSError(errno=number, filename=str(name)) if number in UNWRITABLE:
            return f"cannot write {name}: {error.strerror}. Choose another folder or free it."
        case OSError(errno=number, filename=str(name)) if number in UNUSABLE:
            return f"cannot use {name}: {error.strerror}. Choose another file or folder."
    return next((message for each in EXPLANATIONS if (message := each(error))), None)
