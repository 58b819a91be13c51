"""Which pictures or point clouds are to be classified; imports no torch."""

import csv
import hashlib
import io
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from src.data.text_files import listing, read_text
from src.errors import UserError
from src.predict.settings import STDIN, is_pattern

Label = str | None


class Pictures(NamedTuple):
    """What to classify.

    Attributes:
        paths: of the files, in the order of the list or, of a folder, sorted.
        labels: the class of each, None where it is not known.
        fingerprint: SHA-256 of these, and of the files' sizes and times.
    """

    paths: list[str]
    labels: list[Label]
    fingerprint: str


def find(
    images: str, suffixes: Collection[str], class_names: Collection[str], written: Sequence[Path]
) -> Pictures:
    """List the files.

    Args:
        images: as `Settings.images`.
        suffixes: what the names of files in a folder end in.
        class_names: those of the classifier.
        written: the files that the command will write.

    Raises:
        UserError: there is none, one is missing, a label is no class, the list or a folder cannot
            be read, or one of `written` would take the place of what is read.
    """
    try:
        paths, labels = _listed(images, suffixes, class_names)
        if not paths:
            ends = ", ".join(sorted(suffixes))
            raise UserError(f"images={images}: there is no file to classify ({ends}).")
        if unknown := sorted({label for label in labels if label} - set(class_names)):
            names = listing(unknown, class_names)
            raise UserError(f"images={images}: the classifier has no class {names}.")
        own = {_number(path.stat()) for path in written if path.exists()}
        if Path(images).exists() and _number(Path(images).stat()) in own:
            raise UserError(f"output={written[0]} is what images= names: give another name.")
        return Pictures(paths, labels, _fingerprint(images, paths, labels, own))
    except OSError as error:
        raise UserError(
            f"images={images}: cannot read {error.filename}: {error.strerror}. Make it readable, "
            "or list others."
        ) from None


def _listed(
    images: str, suffixes: Collection[str], class_names: Collection[str]
) -> tuple[list[str], list[Label]]:
    path = Path(images)
    if path.is_dir():
        paths = sorted(_walk(path, suffixes))
        folders = [sys.intern(Path(each).parent.name) for each in paths]
        if others := set(folders) - set(class_names):
            if len(others) < len(set(folders)):
                print(f"no accuracy: the folders {listing(sorted(others))} are no classes")
            return paths, [None] * len(paths)
        return paths, [*folders]
    if path.suffix.lower() == ".csv" and path.exists():
        return _table(path)
    if images == STDIN:
        paths = _lines(os.fsdecode(sys.stdin.buffer.read()), Path())
    elif is_pattern(images):
        pattern = str(path.relative_to(path.anchor))
        paths = sorted(str(each) for each in Path(path.anchor).glob(pattern) if each.is_file())
    elif path.suffix.lower() in suffixes:
        paths = [images]
    else:
        paths = _lines(read_text(path, "images"), path.parent)
    return paths, [None] * len(paths)


def _walk(root: Path, suffixes: Collection[str]) -> Iterator[str]:
    """Find the files below a folder that are not hidden; each folder is looked through once.

    Links to folders are followed, in a circle too.
    """
    seen = set()
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        if (number := _number(Path(folder).stat())) in seen:
            folders.clear()
            continue
        seen.add(number)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield str(Path(folder, name))


def _refuse(error: OSError) -> None:
    raise error


def _lines(text: str, folder: Path) -> list[str]:
    """Give the paths of a text: names may hold any sign but a line's end."""
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [str(folder / line) for line in lines if line.strip()]


def _table(path: Path) -> tuple[list[str], list[Label]]:
    rows = csv.DictReader(io.StringIO(read_text(path, "images"), newline=""), strict=True)
    paths: list[str] = []
    labels: list[Label] = []
    try:
        header = rows.fieldnames or []
        if "path" not in header:
            raise UserError(f"images={path}: the header must have the column path.")
        for row in rows:
            if None in row or None in row.values():
                raise UserError(
                    f"images={path}, line {rows.line_num}, does not have the header's "
                    f"{len(header)} fields: quote a field that contains a comma."
                )
            paths.append(str(path.parent / row["path"]))
            labels.append(sys.intern(row.get("label", "").strip()) or None)
    except csv.Error as error:
        raise UserError(f"images={path}, line {rows.line_num}: {error}. Mend the file.") from None
    return paths, labels


def _fingerprint(
    images: str, paths: Sequence[str], labels: Sequence[Label], own: Collection[tuple[int, int]]
) -> str:
    digest, missing = hashlib.sha256(), []
    for path, label in zip(paths, labels, strict=True):
        status = _status(path)
        if status is None:
            missing.append(path)
            continue
        if _number(status) in own:
            raise UserError(f"{path} is the output, and one of the images: give another output=.")
        digest.update(f"{status.st_size} {status.st_mtime_ns} {label!r}\0".encode())
        digest.update(os.fsencode(path) + b"\0")
    if missing:
        raise UserError(
            f"images={images}: {listing(missing)} is missing, or is no file: correct the list."
        )
    return digest.hexdigest()


def _status(path: str) -> os.stat_result | None:
    """Ask for the state of a file; None if there is none that can be found."""
    try:
        return Path(path).stat() if Path(path).is_file() else None
    except (OSError, ValueError):
        return None


def _number(status: os.stat_result) -> tuple[int, int]:
    """Give what a file is known by, whatever the path to it is."""
    return status.st_dev, status.st_ino
