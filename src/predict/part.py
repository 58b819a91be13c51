"""The answers so far: a file beside the output, a line of JSON for each picture."""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from src.errors import UserError

FLOAT16 = "<f2"
LOCK = "lock"
PART = "part"


def beside(output: Path, what: str) -> Path:
    """Name a file that lies beside the output while it is made: `PART` or `LOCK`."""
    return output.with_name(f"{output.name}.{what}")


@contextmanager
def claim(output: Path) -> Iterator[None]:
    """Hold an output for this process; if it is killed, the system lets it go.

    Args:
        output: its folder is made if it is missing.

    Raises:
        UserError: another process is writing it.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(beside(output, LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process is writing {output}: wait until it ends, or give another output=..."
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # whoever waits for this one sees that
        lock.release()


def resume(part: Path, asked: str, paths: Sequence[str], batch_size: int) -> int:
    """Begin the file, or keep of it what an earlier try wrote; count the answers in it.

    Whole batches are kept: in other ones, numbers would be rounded a little differently.

    Args:
        part: the file.
        asked: what tells this question from any other; answers to another one are dropped.
        paths: of all pictures.
        batch_size: pictures per batch.
    """
    head = f"{json.dumps({'asked': asked})}\n".encode()
    if not part.is_file():
        part.write_bytes(head)
        return 0
    with part.open("r+b") as file:
        if file.readline() != head:
            if part.stat().st_size:
                print("the answers so far are of other images or settings: begun anew")
            file.seek(0)
            file.write(head)
            file.truncate()
            return 0
        whole, end, kept = 0, len(head), (0, len(head))
        for line, path in zip(file, paths, strict=False):
            if not _answers(line, path):
                break
            whole, end = whole + 1, end + len(line)
            if whole % batch_size == 0 or whole == len(paths):
                kept = whole, end
        file.truncate(kept[1])
        return kept[0]


def _answers(line: bytes, path: str) -> bool:
    """Say whether a line is whole, and the answer for a picture."""
    try:
        found: bool = line.endswith(b"\n") and json.loads(line)["path"] == path
    except (KeyError, TypeError, ValueError):
        return False
    return found


def read(part: Path) -> Iterator[dict[str, Any]]:
    """Give the answers, one after another."""
    with part.open() as lines:
        next(lines)
        yield from map(json.loads, lines)


def packed(feature: NDArray[np.float16]) -> dict[str, Any]:
    """Write a feature as JSON holds it, without the digits of its numbers."""
    content = base64.b64encode(feature.astype(FLOAT16).tobytes()).decode()
    return {"shape": list(feature.shape), "float16": content}


def unpacked(feature: dict[str, Any]) -> NDArray[np.float32]:
    """Read what `packed` wrote, as float32, which holds the same numbers."""
    numbers = np.frombuffer(base64.b64decode(feature["float16"]), FLOAT16)
    return numbers.reshape(feature["shape"]).astype(np.float32)
