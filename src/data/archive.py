"""Unpacking archives so that they write into one folder only."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from src.errors import UserError


class UnsafeArchiveError(UserError):
    """A member of an archive would end up outside the folder that it is unpacked into."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into a new `folder` only.

    Raises:
        UnsafeArchiveError: a member would end up elsewhere.
        UserError: it is no archive, or a damaged one.
    """
    try:
        _unpack(archive, folder)
    except (tarfile.ReadError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UserError(
            f"the archive {archive} is damaged: {error}. Use an intact copy, and its checksum."
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            try:
                tar.extractall(folder, filter=_safe_tar_member)  # noqa: S202 (filtered)
            except tarfile.FilterError as error:
                raise _unsafe(error.tarinfo.name) from error
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if leaves_its_folder(info.filename) or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _unsafe(info.filename)
            zipped.extractall(folder)  # noqa: S202 (checked above)
    else:
        raise UserError(f"{archive} is neither a zip nor a tar archive: correct its `member`.")


def _safe_tar_member(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    # The standard filter would strip the slash of an absolute name instead of refusing it.
    if leaves_its_folder(member.name):
        raise _unsafe(member.name)
    return tarfile.data_filter(member, folder)


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
