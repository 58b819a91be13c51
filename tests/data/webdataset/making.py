"""Shards of small images, and a server that gives parts of them."""

import io
import re
import tarfile
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from src.data.webdataset.reader import read


def png(shade: int, size: int = 4) -> bytes:
    """Make an image of one grey, 0 to 255."""
    content = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), shade, np.uint8)).save(content, "PNG")
    return content.getvalue()


def tar(*members, form=tarfile.PAX_FORMAT) -> bytes:
    """Make a tar archive of (name, bytes) files and of ready `TarInfo`s."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                archive.addfile(entry, io.BytesIO(member[1]))
    return content.getvalue()


def samples(start: int, count: int, classes: int = 2, size: int = 4):
    """List `count` images, numbered from `start`, with their class numbers."""
    return [
        member
        for number in range(start, start + count)
        for member in (
            (f"s{number:04}.png", png(number % 256, size)),
            (f"s{number:04}.cls", str(number % classes).encode()),
        )
    ]


def shards(folder, *counts, first=0):
    """Write `0.tar`, `1.tar`, ... with as many images each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, count in enumerate(counts):
        (folder / f"{number}.tar").write_bytes(tar(*samples(first, count)))
        first += count
    return folder


def dataset(store, path=None, split=(), names=None, label=None, seed=0):
    """Read a dataset as its YAML does."""
    return read(None if path is None else str(path), dict(split), names, label, seed, str(store))


def shade(images, item) -> int:
    """Give the grey of an image of `png`."""
    return images.load(item).getpixel((0, 0))[0]


class Server(ThreadingHTTPServer):
    """Serves parts of `files` by path; its attributes set its faults."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.ranges = True
        self.tags = True
        self.drop_after = []  # for each of the next answers, the bytes after which it ends
        self.failures = []  # error statuses of the next answers; 0: none
        self.cut = 0  # of each answer, silently
        self.pause_s = 0
        self.seen = []  # (path with query, Range header, bytes sent, Authorization)
        self.moved = {}  # paths that lie elsewhere

    def url(self, name, user=""):
        return f"http://{user}127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        path = self.path.partition("?")[0]
        if elsewhere := server.moved.get(path):
            self.send_response(302)
            self.send_header("Location", elsewhere)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = server.files.get(path)
        failure = server.failures.pop(0) if server.failures else 0
        status = failure or (200 if content is not None else 404)
        body, span = content if status == 200 else b"", None
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if status == 200 and wanted and server.ranges:
            start, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            body = content[start : last + 1]
            status = 206 if body else 416
            span = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
        body = body[: len(body) - server.cut]
        sent = body[: server.drop_after.pop(0)] if server.drop_after else body
        server.seen.append(
            (self.path, self.headers["Range"], len(sent), self.headers["Authorization"])
        )
        time.sleep(server.pause_s)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if span:
            self.send_header("Content-Range", span)
        if content is not None:
            if server.tags:
                self.send_header("ETag", f'"{hash(content):x}"')
            else:
                self.send_header("Last-Modified", f"{hash(content):x}")
        self.end_headers()
        with suppress(OSError):  # the client has left
            self.wfile.write(sent)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
