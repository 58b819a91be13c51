"""Shards behind an address, read by HTTP ranges."""

import base64
import io
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, BinaryIO, TypeVar
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit

from src.data import network
from src.errors import UserError
from src.masking import MASK

GAP_BYTES = 1 << 20
"""An image is read over, while a shard is indexed, unless it is larger. A further request takes as
long as about this many bytes need: images of usual size stream by faster than the server answers
one request for each header behind them. Nothing of them is kept."""
NEXT_BYTES = 1 << 16
"""An image that begins this near behind the last one follows it."""
BLOCK_BYTES = 1 << 16
"""What is read at once where headers and labels lie."""
AHEAD_BYTES = 1 << 22
"""How far images that follow each other are read ahead at most. Images that are drawn one by one,
as those of a support set, are read alone."""

T = TypeVar("T")


def is_remote(name: str) -> bool:
    """Tell an address from a path."""
    return "://" in name


def shown(address: str) -> str:
    """Write an address or a path without what may be secret: a user, a password, and any query."""
    if not is_remote(address):
        return address
    without_query, question, _ = address.partition("?")
    scheme, _, rest = without_query.partition("://")
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    return f"{scheme}://{MASK if user else ''}{at}{host}{slash}{path}{question and '?' + MASK}"


class _Ahead(threading.local):
    """What each thread has fetched last."""

    def __init__(self) -> None:
        self.shard, self.status = "", ""
        self.start, self.content = 0, b""
        self.end, self.length = -1, 0


_AHEAD = _Ahead()


@dataclass(frozen=True)
class RemoteShard:
    """A tar archive on a server that gives parts of files.

    Raises:
        UserError: the address is neither http nor https.
    """

    address: str

    def __post_init__(self) -> None:
        if urlsplit(self.address).scheme not in ("http", "https"):
            raise UserError(f"the shard {self.shown} is neither http nor https: fetch it first.")

    @property
    def shown(self) -> str:
        return shown(self.address)

    @property
    def identity(self) -> str:
        return self._url[0]

    @property
    def _url(self) -> tuple[str, str | None]:
        """Give the address without user and password, and the header that has them."""
        parts = urlsplit(self.address)
        user, at, host = parts.netloc.rpartition("@")
        if not at:
            return self.address, None
        token = base64.b64encode(unquote(user).encode()).decode()
        return urlunsplit(parts._replace(netloc=host)), f"Basic {token}"

    def status(self) -> str:
        """Ask for one byte, which tells the length, a tag or time, and that there are ranges.

        Raises:
            UserError: the server cannot be reached, has no such file, or gives no ranges.
        """
        return self._patiently(lambda: self._opened(0, 1, None)[1])

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the shard as a file whose reading goes on where a connection ended."""
        with io.BufferedReader(_Stream(self), BLOCK_BYTES) as stream:
            yield stream

    def read(self, offset: int, size: int, status: str) -> bytes:
        """Read a part; where one follows the last, what lies behind it is fetched along.

        Raises:
            UserError: the server cannot be reached, or the shard was replaced.
        """
        ahead = _AHEAD
        if (ahead.shard, ahead.status) != (self.identity, status):
            ahead.shard, ahead.status = self.identity, status
            ahead.start, ahead.content, ahead.end, ahead.length = 0, b"", -1, 0
        first = offset - ahead.start
        if first < 0 or first + size > len(ahead.content):
            follows = ahead.end >= 0 and 0 <= offset - ahead.end <= NEXT_BYTES
            ahead.length = min(max(2 * ahead.length, 4 * size), AHEAD_BYTES) if follows else 0
            end = min(offset + max(size, ahead.length), _length(status))
            ahead.content = self._patiently(lambda: self._part(offset, end, status))
            ahead.start, first = offset, 0
        ahead.end = offset + size
        return ahead.content[first : first + size]

    def stream(self, start: int, status: str) -> HTTPResponse:
        """Begin to read at `start`, to the end."""
        return self._patiently(lambda: self._opened(start, None, status)[0])

    def _part(self, start: int, end: int, status: str) -> bytes:
        response, _ = self._opened(start, end, status)
        with response:
            content = response.read()
        if len(content) != end - start:
            raise ConnectionError(f"{len(content):,} of {end - start:,} bytes came")
        return content

    def _opened(self, start: int, end: int | None, status: str | None) -> tuple[HTTPResponse, str]:
        url, authorization = self._url
        request = urllib.request.Request(url, headers={"User-Agent": "calipers"})  # noqa: S310
        request.add_header("Range", f"bytes={start}-{'' if end is None else end - 1}")
        if authorization:  # a server that this one sends us on to must not see it
            request.add_unredirected_header("Authorization", authorization)
        response = urllib.request.urlopen(request, timeout=network.TIMEOUT_S)  # noqa: S310
        try:
            found = self._checked(response, start, status)
        except BaseException:
            response.close()
            raise
        return response, found

    def _checked(self, response: HTTPResponse, start: int, status: str | None) -> str:
        span = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip()
        )
        if response.status != 206 or span is None:
            raise UserError(
                f"the server of {self.shown} gives no parts of files (HTTP ranges), so images "
                "cannot be read by their place there. Fetch the shards, as by `wget -c`, and give "
                "dataset.path their folder."
            )
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        found = f"{span[2]} {tag}"
        if status is not None and found != status:
            raise UserError(
                f"the shard {self.shown} was replaced while it was read, or its server's copies "
                "differ: start again, and its index is made anew."
            )
        if int(span[1]) != start:
            raise UserError(
                f"the server of {self.shown} gives other parts of a file than those asked for. "
                "Fetch the shards, and give dataset.path their folder."
            )
        return found

    def _patiently(self, work: Callable[[], T]) -> T:
        """Try again after what may pass.

        Raises:
            UserError: it failed each time, or at once in a way that will not pass.
        """
        try:
            return network.patiently(work)
        except network.NETWORK_ERRORS as error:
            raise self.failed(error) from None

    def failed(self, error: Exception) -> UserError:
        """Say that the server failed, without what is secret in the address."""
        parts = urlsplit(self.address)
        told = "the file is empty" if _is_empty(error) else f"{error}"
        for secret in (parts.query, parts.netloc.rpartition("@")[0]):
            told = told.replace(secret, MASK) if secret else told
        return UserError(
            f"cannot read the shard {self.shown}: {told}. Run this again once the server answers, "
            "or correct dataset.path or dataset.split. What was indexed is kept."
        )


class _Stream(io.RawIOBase):
    """A shard as a file: read forwards, by one response for as long as nothing large is skipped."""

    def __init__(self, shard: RemoteShard) -> None:
        super().__init__()
        self._shard, self._status = shard, shard.status()
        self._at = self._response_at = 0
        self._response: HTTPResponse | None = None

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: _length(self._status)}[whence]
        self._at = start + offset
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, or as much of it as there is; a broken connection is renewed."""
        self._go_to(self._at)
        content = self._take(min(len(buffer), max(_length(self._status) - self._at, 0)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        self._hang_up()
        super().close()

    def _go_to(self, position: int) -> None:
        skipped = position - self._response_at
        if self._response is not None and 0 <= skipped <= GAP_BYTES:
            self._take(skipped)
        else:
            self._hang_up()
            self._response_at = position

    def _take(self, size: int) -> bytes:
        taken, pauses = bytearray(), iter(network.PAUSES_S)
        while len(taken) < size:
            if self._response is None:
                self._response = self._shard.stream(self._response_at, self._status)
            error: Exception = ConnectionError("the connection ended early")
            chunk = b""
            try:
                chunk = self._response.read(size - len(taken))
            except network.NETWORK_ERRORS as failure:
                error = failure
            if chunk:
                taken += chunk
                self._response_at += len(chunk)
                pauses = iter(network.PAUSES_S)
                continue
            self._hang_up()
            pause = next(pauses, None)
            if pause is None:
                raise self._shard.failed(error)
            time.sleep(pause)
        return bytes(taken)

    def _hang_up(self) -> None:
        if self._response is not None:
            with suppress(OSError, HTTPException):
                self._response.close()
            self._response = None


def _length(status: str) -> int:
    return int(status.partition(" ")[0])


def _is_empty(error: Exception) -> bool:
    return isinstance(error, HTTPError) and error.code == 416
