"""Which tar archives a dataset consists of, on this disk or behind an address."""

import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from src.data.images import SPLITS
from src.data.text_files import listing
from src.data.webdataset.remote import RemoteShard, is_remote, shown
from src.errors import UserError

UNDIVIDED = "all"
"""The source of rows that no split is named for."""
MOST = 100_000
"""No dataset has more shards; an expression in braces that gives more is a slip."""
_ALIASES = {"valid": "val", "validation": "val"}
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.zstd")


class Shard(Protocol):
    """A tar archive whose parts can be read without the rest.

    Attributes:
        shown: what it is called in messages.
        identity: tells it from any other one.
    """

    @property
    def shown(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def status(self) -> str:
        """Say what changes if the shard is replaced: its size and its time or tag."""

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open it to be read from its beginning to its end, with gaps."""

    def read(self, offset: int, size: int, status: str) -> bytes:
        """Read a part of the shard, which must still have this status."""


@dataclass(frozen=True)
class LocalShard:
    """A tar archive on this disk."""

    path: Path

    @property
    def shown(self) -> str:
        return str(self.path)

    @property
    def identity(self) -> str:
        return str(self.path.absolute())

    def status(self) -> str:
        """Give size and modification time.

        Raises:
            UserError: there is no such file.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            raise UserError(
                f"cannot read the shard {self.path}: {error.strerror}. Put it there, or correct "
                "dataset.path or dataset.split."
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"the shard {self.path} is no file: give tar archives.")
        return _status(status)

    def open(self) -> AbstractContextManager[BinaryIO]:
        return self.path.open("rb")

    def read(self, offset: int, size: int, status: str) -> bytes:
        """Read a part.

        Raises:
            UserError: the file is gone, unreadable or another one than it was.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                if _status(os.fstat(file.fileno())) != status:
                    raise replaced(self.shown)
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise UserError(f"cannot read the shard {self.path}: {error.strerror}.") from error
        if len(content) < size:
            raise replaced(self.shown)
        return content


def find(path: str | None, split: Mapping[str, Any]) -> dict[str, list[Shard]]:
    """Find the shards of each split; those that no split is named for are called `UNDIVIDED`.

    Args:
        path: a folder that holds `{train,val,test}/*.tar`, `{train,val,test}-*.tar` or `*.tar`; or
            a pattern of shards, as `train-{000..099}.tar`.
        split: a pattern, or a list of patterns, for each of some splits.

    Raises:
        UserError: nothing is found, or it is not clear what belongs to which split.
    """
    given = {name: patterns for name, patterns in split.items() if patterns is not None}
    if unknown := [name for name in given if name not in SPLITS]:
        raise UserError(f"dataset.split.{unknown[0]}: there are the splits {', '.join(SPLITS)}.")
    if given and path is not None:
        raise UserError("dataset.path and dataset.split exclude each other: give one of them.")
    if given:
        found = {
            name: _listed(patterns, f"dataset.split.{name}") for name, patterns in given.items()
        }
    elif path is None:
        raise UserError(
            "where are your shards? Give `dataset.path=FOLDER`, or a pattern, quoted twice, as "
            "'dataset.path=\"train-{000..099}.tar\"', or dataset.split.train=... and test=..."
        )
    elif not is_remote(path) and Path(path).is_dir():
        found = _in_folder(Path(path))
    else:
        found = {UNDIVIDED: _listed(path, "dataset.path")}
    return {name: [_shard(one) for one in of_split] for name, of_split in found.items()}


def replaced(name: str) -> UserError:
    """Say that a shard is another one than it was when this process began."""
    return UserError(
        f"the shard {name} was replaced while it was read: start again, and its index is made anew."
    )


def expanded(pattern: str, setting: str) -> list[str]:
    """Write out `{000..099}` and `{a,b}`, the last one counting fastest.

    Raises:
        UserError: the braces hold neither, or give far too many names.
    """
    parts = re.split(r"(\{[^{}]*\})", pattern)
    choices = [
        _choices(part, pattern, setting) if part.startswith("{") else [part] for part in parts
    ]
    total = 1
    for of_part in choices:
        total *= len(of_part)
    if total > MOST:
        raise UserError(f"{setting}={shown(pattern)} names {total:,} shards: correct it.")
    return ["".join(one) for one in product(*choices)]


def _choices(braces: str, pattern: str, setting: str) -> Sequence[str]:
    inside = braces[1:-1]
    if bounds := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", inside):
        first, last = bounds.groups()
        width = max(map(len, (first, last))) if first.startswith("0") and len(first) > 1 else 0
        numbers = range(int(first), int(last) + 1)
        if not numbers or len(numbers) > MOST:
            raise UserError(
                f"{setting}={shown(pattern)}: {braces} counts from {first} to {last}, which are "
                f"{len(numbers):,} numbers: correct it."
            )
        return [f"{number:0{width}}" for number in numbers]
    if "," in inside:
        return inside.split(",")
    raise UserError(
        f"{setting}={shown(pattern)}: {braces} is neither {{000..099}} nor {{a,b}}: correct it."
    )


def _listed(patterns: Any, setting: str) -> list[str]:
    found = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for one in expanded(str(pattern), setting):
            if is_remote(one) or not has_magic(one):
                found.append(one)
            elif matching := sorted(glob(one), key=_natural):  # noqa: PTH207 (absolute patterns)
                found += matching
            else:
                raise UserError(f"{setting}={pattern}: there is no file {one}. Correct it.")
    if not found:
        raise UserError(f"{setting} names no shard: give some, or leave it out.")
    return found


def _in_folder(root: Path) -> dict[str, list[str]]:
    folders = {one: _tars(one) for one in sorted(root.iterdir()) if one.is_dir()}
    by_name = {one.name: tars for one, tars in folders.items() if tars}
    own: dict[str, list[str]] = {}
    for tar in _tars(root):
        word = re.match(r"[A-Za-z]*", Path(tar).name)
        name = word[0] if word else ""
        own.setdefault(_split(name) or UNDIVIDED, []).append(tar)
    found: dict[str, list[str]] = {}
    for name, tars in by_name.items():
        if (split := _split(name)) is None or split in found:
            raise UserError(
                f"{root} holds shards in {listing(list(by_name))}: call the folders "
                f"{', '.join(SPLITS)}, or name the shards by dataset.split.train=... and test=..."
            )
        found[split] = tars
    unclear = own.get(UNDIVIDED, []) if len(own) > 1 else []
    if found:
        unclear = [tar for tars in own.values() for tar in tars]
    if unclear:
        raise UserError(
            f"{root} holds shards of which it is not clear what split they belong to: "
            f"{listing(unclear)}. Name them by dataset.split.train=... and dataset.split.test=..."
        )
    if not (found or own):
        raise UserError(
            f"{root} holds no shard: it must hold {{train,test}}/*.tar, or *.tar. What is "
            "compressed has to be decompressed first."
        )
    return found or own


def _tars(folder: Path) -> list[str]:
    names = [one for one in folder.iterdir() if one.is_file() and not one.name.startswith(".")]
    shards = [str(one) for one in names if one.suffix == ".tar" or _is_compressed(one.name)]
    return sorted(shards, key=_natural)


def _split(name: str) -> str | None:
    split = _ALIASES.get(name.lower(), name.lower())
    return split if split in SPLITS else None


def _natural(name: str) -> list[Any]:
    """Sort 10.tar behind 9.tar."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _shard(name: str) -> Shard:
    if _is_compressed(name.partition("?")[0]):
        raise compressed(shown(name))
    return RemoteShard(name) if is_remote(name) else LocalShard(Path(name))


def _is_compressed(name: str) -> bool:
    return name.lower().endswith(_COMPRESSED)


def compressed(name: str) -> UserError:
    """Refuse a compressed shard: what lies where in it, nothing but decompressing it all tells."""
    return UserError(
        f"the shard {name} is compressed, and images cannot be read by their place in it. "
        "Decompress it once (gunzip, unxz, zstd -d), and give the .tar: images hardly shrink."
    )


def _status(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"
