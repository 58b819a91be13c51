"""Fetching the files and archives that a dataset's YAML lists.

Only what matches its checksum is ever unpacked or takes its final place, and it does so by a
rename. What is being fetched lies in `<root>/.downloads` until then.
"""

import errno
import hashlib
import shutil
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from src.data.archive import UnsafeArchiveError, find, leaves_its_folder, unpack
from src.data.network import NETWORK_ERRORS, TIMEOUT_S, patiently
from src.errors import UserError

WORKSPACE = ".downloads"

_CHUNK_BYTES = 1 << 16
_GRACE_S = 60
_LEAST_BYTES_PER_S = 1 << 10
"""A transfer that is slower than this after the time of grace is given up."""
_LARGEST_BYTES = 1 << 36
"""The most that a server may send which does not say how much: 64 GiB."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Download:
    """One file or archive of a dataset.

    Attributes:
        url: where the file lies; http or https.
        checksum: `md5:` or `sha256:` and the hexadecimal digest of what `url` serves.
        to: the path below the dataset's root at which the file or folder ends up. `.` is the root
            itself, for an archive that holds the whole dataset.
        member: the file or folder inside the archive (zip or tar, compressed or not) to keep; `.`
            is all of it. The path may lead through an archive inside the archive. None means a
            plain file.

    Raises:
        UserError: a value is not of this form.
    """

    url: str
    checksum: str
    to: str
    member: str | None = None

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise UserError(f"downloads: the url {self.url} is neither http nor https.")
        algorithm, _, digest = self.checksum.partition(":")
        if algorithm not in ("md5", "sha256") or not digest:
            raise UserError(
                f"downloads: the checksum {self.checksum!r} of {self.url} is not of the form "
                "md5:<digest> or sha256:<digest>."
            )
        for path in (self.to, self.member):
            if path is not None and leaves_its_folder(path):
                raise UserError(f"downloads: {path!r} ({self.url}) leaves its folder.")

    @property
    def file_name(self) -> str:
        """The last part of the URL's path."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name or "download"


def fetch(download: Download, root: Path) -> None:
    """Bring one file or folder to `root / download.to`, unless something is there already.

    An interrupted transfer resumes where it stopped. Processes that fetch into the same root take
    turns. An archive that the user has put into `root/.downloads` saves the transfer.

    Raises:
        UserError: the server cannot be reached or does not have the file; a checksum differs; the
            archive is unsafe, or lacks the member; the disk is full. Nothing half-made is left at
            `root / download.to` then.
    """
    root = root.absolute()
    if _is_present(download, root):
        return
    workspace = root / WORKSPACE
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        with FileLock(workspace / "lock"):
            if _is_present(download, root):  # another process was faster
                return
            if download.member is None:
                _fetch_file(download, root / download.to, workspace)
            else:
                _fetch_member(download, download.member, root, workspace)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise UserError(
            f"the disk is full: {download.url} does not fit into {root}. Free space there, or set "
            "paths.data (or DATA_ROOT) to a folder on another disk."
        ) from error


def verify(download: Download, root: Path) -> None:
    """Compare a plain file at `root / download.to`, if it is there, with its checksum.

    Raises:
        UserError: they differ.
    """
    target = root / download.to
    if download.member is None and target.is_file():
        _verify(target, download, f"Move {target} away to have it fetched again.")


def _is_present(download: Download, root: Path) -> bool:
    verify(download, root)
    target = root / download.to
    if target == root and (root / WORKSPACE / download.file_name).exists():
        return False  # a process was killed while it filled the root: see _place
    if target.is_dir():
        return any(child.name != WORKSPACE for child in target.iterdir())
    return target.exists()


def _fetch_file(download: Download, target: Path, workspace: Path) -> None:
    file = workspace / download.file_name
    _obtain(download, file, by_hand=target)
    target.parent.mkdir(parents=True, exist_ok=True)
    file.rename(target)


def _fetch_member(download: Download, member: str, root: Path, workspace: Path) -> None:
    archive = workspace / download.file_name
    _obtain(download, archive, by_hand=archive)
    staging = workspace / "unpacked"
    shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
    try:
        with Console(stderr=True).status(f"unpacking {archive.name}"):
            unpack(archive, staging)
            found = find(member, staging, download.url)
        _place(found, root / download.to, root)
    except UnsafeArchiveError:
        archive.unlink()
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    archive.unlink()


def _obtain(download: Download, file: Path, by_hand: Path) -> None:
    """Download `file` as `download` describes it, unless it is there already."""
    if file.exists():
        _verify(file, download, f"Move {file} away to have it fetched again.")
        return
    part = file.with_name(f"{file.name}.part")
    try:
        patiently(lambda: _transfer(download.url, part))
        _verify(
            part,
            download,
            "It was removed: run this again. If that does not help, the server may have sent an "
            f"error page or another version; put an intact copy at {by_hand}.",
        )
    except NETWORK_ERRORS as error:
        raise UserError(
            f"cannot download {download.url}: {error}. Put the file by hand at {by_hand} "
            f"({download.checksum}), or run this again once the server answers."
        ) from error
    except (UserError, OSError):
        part.unlink(missing_ok=True)
        raise
    part.rename(file)


def _verify(file: Path, download: Download, remedy: str) -> None:
    algorithm, _, expected = download.checksum.lower().partition(":")
    with file.open("rb") as content:
        actual = hashlib.file_digest(content, algorithm).hexdigest()
    if actual != expected:
        raise UserError(
            f"{file} ({download.url}) is not the expected file: its checksum is "
            f"{algorithm}:{actual}, not {algorithm}:{expected}. {remedy}"
        )


def _transfer(url: str, part: Path) -> None:
    """Append what is missing to `part`, or start again if the server cannot resume."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "calipers"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (Download checks it)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except HTTPError as error:
        error.close()
        if start and error.code == 416:
            return  # The server has no more bytes: the checksum decides.
        raise
    with response:
        if response.status != 206:
            start = 0
        length = response.headers["Content-Length"]
        total = start + int(length) if length and length.isdigit() else None
        received = start
        with part.open("ab" if start else "wb") as file, _progress_bar() as progress:
            task = progress.add_task(part.stem, total=total, completed=start)
            began = time.monotonic()
            while chunk := response.read1(_CHUNK_BYTES):
                received += file.write(chunk)
                progress.update(task, completed=received)
                _check_pace(received, received - start, time.monotonic() - began)
    if total is not None and received < total:
        raise ConnectionError(f"the connection ended after {received:,} of {total:,} bytes")


def _check_pace(size: int, received: int, seconds: float) -> None:
    """Give up on a transfer that would never end.

    Raises:
        TimeoutError: it is too slow.
        UserError: it is larger than any file of a dataset.
    """
    if seconds > _GRACE_S and received < _LEAST_BYTES_PER_S * seconds:
        raise TimeoutError(f"only {received:,} bytes came in {seconds:.0f} s")
    if size > _LARGEST_BYTES:
        raise UserError(f"a download was stopped after {size:,} bytes: no dataset is that large.")


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _place(found: Path, target: Path, root: Path) -> None:
    if target != root:
        target.parent.mkdir(parents=True, exist_ok=True)
        found.rename(target)
        return
    # The root holds the workspace and cannot be replaced as a whole. The archive goes last, so
    # that a process killed amid these renames leaves a root that still counts as absent.
    for child in found.iterdir():
        if not (root / child.name).exists():
            child.rename(root / child.name)
