"""Unpacking archives so that they write into one folder only."""

import errno
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from src.errors import UserError

LARGEST_RATIO = 50
"""How many bytes may come out of one byte of an archive. Images and HDF5 files hardly shrink."""
_CHUNK_BYTES = 1 << 20
LEAST_LIMIT = 1 << 27
"""So many bytes may come out of any archive, 128 MiB: lists and split files do shrink."""


class UnsafeArchiveError(UserError):
    """An archive would write outside the folder that it is unpacked into, or fill the disk."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive, or a single file compressed by gzip, into a new `folder` only.

    Only folders and regular files are unpacked. Links are refused, even those that stay inside: a
    long enough chain of them leads out of the folder past every check of names (CVE-2025-4517).

    Raises:
        UnsafeArchiveError: a member would end up elsewhere, is a link or a device, or together they
            are far too large.
        UserError: it is no archive, a damaged one, or one that cannot be unpacked.
        OSError: the disk is full.
    """
    try:
        _unpack(archive, folder)
    except _DAMAGED as error:
        raise UserError(
            f"the archive {archive} is damaged: {error}. Use an intact copy, and its checksum."
        ) from error
    except (RuntimeError, NotImplementedError, UnicodeError, ValueError, LookupError) as error:
        raise UserError(
            f"the archive {archive} cannot be unpacked here: {error}. Unpack it by other means."
        ) from error
    except OSError as error:
        if error.errno not in _OF_THE_ARCHIVE:
            raise
        raise UserError(
            f"the archive {archive} cannot be unpacked here: {error}. Use an intact copy."
        ) from error


_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_OF_THE_ARCHIVE = {
    errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EINVAL, None,
}  # fmt: skip
"""Errors that an archive causes: names given twice, a file where a folder is, names too long; and
those without a number, which its decompression raises."""


def _unpack(archive: Path, folder: Path) -> None:
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            limit = _limit(archive)
            for member in tar:
                limit -= member.size
                if leaves_its_folder(member.name) or not (member.isfile() or member.isdir()):
                    raise _unsafe(member.name)
                if limit < 0:
                    raise _too_large(archive)
                tar.extract(member, folder, filter="data")
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            if sum(info.file_size for info in zipped.infolist()) > _limit(archive):
                raise _too_large(archive)
            for info in zipped.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if leaves_its_folder(info.filename) or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _unsafe(info.filename)
            zipped.extractall(folder)  # noqa: S202 (checked above)
    elif _is_gzip(archive):
        _decompress(archive, folder)
    else:
        raise UserError(f"{archive} is neither a zip nor a tar archive: correct its `member`.")


def _is_gzip(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _decompress(archive: Path, folder: Path) -> None:
    """Decompress a single file, which is called as its archive without the ending."""
    limit = _limit(archive)
    folder.mkdir()
    with gzip.open(archive) as content, (folder / archive.stem).open("wb") as file:
        while chunk := content.read(_CHUNK_BYTES):
            limit -= len(chunk)
            if limit < 0:
                raise _too_large(archive)
            file.write(chunk)


def _limit(archive: Path) -> int:
    return max(LEAST_LIMIT, LARGEST_RATIO * archive.stat().st_size)


def _too_large(archive: Path) -> UnsafeArchiveError:
    return UnsafeArchiveError(
        f"the archive was refused and removed: more than {_limit(archive):,} bytes would come out "
        f"of its {archive.stat().st_size:,}. Use a copy from a source that you trust."
    )


def leaves_its_folder(name: str) -> bool:
    """Tell whether a relative path of any operating system leaves the folder where it starts."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


def _unsafe(name: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(
        f"the archive was refused and removed: its member {name!r} leads out of the folder that it "
        "is unpacked into, or is a link or a device. Use a copy from a source that you trust."
    )


def find(member: str, folder: Path, url: str) -> Path:
    """Find an unpacked member, unpacking the archives that the path to it leads through.

    Raises:
        UserError: it is not there; `url` is named as the archive's origin.
    """
    found = folder
    for part in PurePosixPath(member).parts:
        if found.is_file():
            inner = found.with_name(f"{found.name}.unpacked")
            unpack(found, inner)
            found = inner
        found = found / part
    if not found.exists():
        raise UserError(f"the archive {url} holds no {member!r}: correct its `member`.")
    return found
