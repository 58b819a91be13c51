"""The indexes of shards in the feature store: made once, one by one, and opened as arrays.

Each shard has a file of its own, so that an interrupted indexing goes on with the next shard, and a
shard that was replaced is the only one that is indexed again.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from src.data.webdataset.shards import Shard, replaced
from src.data.webdataset.tar import Contents, scan
from src.errors import UserError
from src.files import replacing

FOLDER = ".webdataset"
"""Below the feature store's; no dataset's folder there begins with a dot."""
AT_ONCE = 8
"""How many shards are asked for or indexed at a time: disks and servers take their time."""
FORMAT = "1"
_ARRAYS = ("offset", "size", "label", "key", "names", "ends")

log = logging.getLogger(__name__)


class Index:
    """Where a shard's index lies, and what of it every run needs.

    Attributes:
        shard: what was indexed.
        status: of the shard, as it was then.
        path: the file.
        contents: without `names` and `ends`, which only messages need.
    """

    def __init__(self, shard: Shard, status: str, path: Path, contents: Contents) -> None:
        self.shard, self.status, self.path = shard, status, path
        nothing = np.zeros(0, np.uint8), np.zeros(0, np.int64)
        self.contents = contents._replace(names=nothing[0], ends=nothing[1])

    def name(self, row: int) -> str:
        """Name the member that is an image, as it can be written into one line."""
        found = _read(self.path, self.status)
        if found is None or row >= len(found.ends):
            return f"image {row}"
        start = int(found.ends[row - 1]) if row else 0
        name = found.names[start : int(found.ends[row])].tobytes().decode(errors="backslashreplace")
        return "".join(one if one.isprintable() else repr(one)[1:-1] for one in name)


def indexes(shards: Sequence[Shard], label: str | None, store: Path) -> list[Index]:
    """Open the index of each shard, and make those that are missing, damaged or outdated.

    Args:
        shards: the shards.
        label: which member is the label, as for `scan`.
        store: the feature store's folder.

    Raises:
        UserError: a shard is missing or unusable; the message names it.
        OSError: the store cannot be written.
    """
    with ThreadPool(min(AT_ONCE, len(shards))) as threads:
        status = threads.map(lambda shard: shard.status(), shards)
        paths = [_path(store / FOLDER, shard, label) for shard in shards]
        found = threads.starmap(_read, zip(paths, status, strict=True))
        pending = [number for number, contents in enumerate(found) if contents is None]
        if pending:
            folder = store / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            log.info("indexing %d of %d shards", len(pending), len(shards))
            with _alone(folder / "lock"):
                made = threads.imap(
                    lambda number: _made(shards[number], status[number], paths[number], label),
                    pending,
                )
                console = Console(stderr=True)
                shown = track(
                    made, "indexing", total=len(pending), console=console, transient=True,
                    disable=not console.is_terminal,
                )  # fmt: skip
                for number, contents in zip(pending, shown, strict=True):
                    found[number] = contents
            _say_left_out([found[number] for number in pending], len(pending))
    return [
        Index(*one)
        for one in zip(shards, status, paths, [each for each in found if each], strict=True)
    ]


def _made(shard: Shard, status: str, path: Path, label: str | None) -> Contents:
    if (contents := _read(path, status)) is not None:
        return contents  # Another process was faster.
    try:
        with shard.open() as file:
            contents = scan(file, shard.shown, label)
    except OSError as error:
        raise UserError(f"cannot read the shard {shard.shown}: {error.strerror}.") from error
    if shard.status() != status:
        raise replaced(shard.shown)
    _write(path, status, contents)
    return contents


def _write(path: Path, status: str, contents: Contents) -> None:
    arrays = {name: np.ascontiguousarray(getattr(contents, name)) for name in _ARRAYS}
    about = {
        "format": FORMAT,
        "status": status,
        "class_names": json.dumps(contents.class_names),
        "left_out": json.dumps(contents.left_out),
        "sha256": _digest(arrays),
    }
    with replacing(path) as temporary:
        save_file(arrays, temporary, about)


def _read(path: Path, status: str) -> Contents | None:
    """Read an index; None if there is none, or it is damaged or that of a shard before."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if (about.get("format"), about.get("status")) != (FORMAT, status):
                return None
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        class_names, left_out = json.loads(about["class_names"]), json.loads(about["left_out"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if about.get("sha256") != _digest(arrays):
        return None
    return Contents(**arrays, class_names=class_names, left_out=left_out)


def _digest(arrays: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256()
    for name in _ARRAYS:
        digest.update(arrays[name].data)
    return digest.hexdigest()


def _path(folder: Path, shard: Shard, label: str | None) -> Path:
    digest = hashlib.sha256(f"{label}\0{shard.identity}".encode()).hexdigest()
    return folder / f"{digest[:32]}.safetensors"


def _alone(path: Path) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("another process is indexing shards; waiting")
    else:
        lock.release()
    return lock


def _say_left_out(made: Sequence[Contents | None], shards: int) -> None:
    total: Counter[str] = Counter()
    for contents in made:
        total.update(contents.left_out if contents else {})
    if total:
        told = ", ".join(
            f"{count:,} {f'.{ending}' if ending else 'without an ending'}"
            for ending, count in total.most_common(5)
        )
        log.warning(
            "neither images nor labels by their names, and left out of %d shards: %s", shards, told
        )
