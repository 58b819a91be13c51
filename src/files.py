"""Writing files so that a reader never sees half of one, and by which process."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "conf"
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""Where Lightning looks for the rank of a process in a distributed run."""


@contextmanager
def replacing(path: Path, flushed: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` atomically.

    The content is flushed to the disk before the rename, so that a crash of the system leaves
    either the old file or the whole new one; without `flushed`, only one of the process does. On
    an exception the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if flushed:
            flush(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is reported without a name
        raise
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until the content of a file is on the disk.

    Raises:
        OSError: the disk is full or fails.
    """
    with path.open("rb") as written:
        try:
            os.fsync(written.fileno())
        except OSError as error:
            error.filename = str(path)
            raise


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def leads() -> bool:
    """Say whether this process is the first of a distributed run, or the only one."""
    return all(os.environ.get(rank, "0") == "0" for rank in RANKS)
