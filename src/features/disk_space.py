"""How large an entry of the store will be, and whether its disk has the space."""

import shutil
from contextlib import suppress
from pathlib import Path

from rich.filesize import decimal

from src.errors import UserError

RESERVE = 64 * 10**6
"""Bytes that are left on the disk, for checksums, records and whatever else a run writes."""


def require(folder: Path, needed: int, remedy: str) -> None:
    """Refuse to begin what would fill a disk.

    Args:
        folder: a folder on the disk, which need not exist; a refusal removes it if it is empty.
        needed: bytes that are still to be written there.
        remedy: what the user can do, as the end of the message.

    Raises:
        UserError: fewer than `needed` and `RESERVE` bytes are free.
    """
    free = free_bytes(folder)
    if free < needed + RESERVE:
        with suppress(OSError):  # What an earlier run has stored there stays.
            folder.rmdir()
        raise UserError(
            f"the disk of {folder} has {decimal(free)} free, and {decimal(needed + RESERVE)} are "
            f"needed: {remedy}."
        )


def free_bytes(folder: Path) -> int:
    """Give what is free on the disk of a folder, which need not exist."""
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(existing).free
