"""Writing files so that a reader never sees half of one, and by which process."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.errors import UserError

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
"""What the package lies in: a checkout, or the site-packages of an environment."""
INSTALLED = (PACKAGE / "conf").is_dir()
"""Whether this is the package of a wheel, which holds conf/; in a checkout it lies beside src/."""
CONFIG_DIR = (PACKAGE if INSTALLED else ROOT) / "conf"
RECIPES = CONFIG_DIR / "experiment"
"""experiments/, which conf/ has as a group of choices."""
ROOM_BYTES = 1 << 16
"""A disk with less room than that is full: a file may have failed that needed more than is left."""
OF_A_RUN = "hydra.run.dir or hydra.sweep.dir, paths.features"


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


@contextmanager
def naming_full_disk(*folders: Path, settings: str = OF_A_RUN) -> Iterator[None]:
    """Say which disk is full, where a library's exception does not.

    Args:
        folders: those that are written into, beside the one for temporary files.
        settings: what names another folder.

    Raises:
        UserError: there is no room on one of their disks, and something failed for it.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        places = [*folders, Path(tempfile.gettempdir())]
        full = [str(folder) for folder in places if not _has_room(folder)] or map(str, folders)
        raise UserError(
            f"no space is left on the disk of {' or '.join(dict.fromkeys(full))}: free some, or "
            f"choose another folder ({settings}, TMPDIR)."
        ) from error


def _has_room(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free >= ROOM_BYTES


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "No space left" in str(error)


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
