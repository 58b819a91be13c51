"""What a shard holds and where, found by reading its headers and labels."""

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.data.text_files import at_most
from src.data.webdataset.shards import compressed
from src.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "jfif")
"""The endings of members that are images; what is in them is told by their content."""
CLASS_NUMBER, CLASS_NAME, JSON = "cls", "txt", "json"
LARGEST_LABEL_BYTES = 1 << 20
MOST_CLASSES = 50_000
"""Texts of more kinds than this are captions."""
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_BLOCK = 512


class Contents(NamedTuple):
    """The images of a shard, in its order.

    Attributes:
        offset: where each image begins, int64 `[n]`.
        size: how many bytes it has, int64 `[n]`.
        label: int64 `[n]`, the number that a label states, or the position of the name that it
            states in `class_names`.
        key: a digest of each image's key, uint64 `[n]`.
        names: of the members, one behind the other, in UTF-8: uint8 `[bytes]`.
        ends: where each name ends there, int64 `[n]`.
        class_names: sorted; None where labels are numbers.
        left_out: how many members are neither an image nor a label, by ending.
    """

    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int64]
    key: NDArray[np.uint64]
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]
    class_names: list[str] | None
    left_out: Mapping[str, int]


@dataclass
class _Sample:
    """The members of one key."""

    image: tarfile.TarInfo | None = None
    labels: dict[str, bytes] = field(default_factory=dict)


def check_label(label: str | None) -> None:
    """Check `dataset.label`.

    Raises:
        UserError: it names no kind of label.
    """
    if label in (None, CLASS_NUMBER, CLASS_NAME):
        return
    kind, _, key = str(label).partition(".")
    if kind != JSON or not key:
        raise UserError(
            f"dataset.label={label}: give {CLASS_NUMBER} (the number of a class), {CLASS_NAME} "
            f"(its name), or {JSON}.KEY, the key that has one of these in a member .{JSON}."
        )


def scan(file: BinaryIO, shard: str, label: str | None) -> Contents:
    """Read the headers and labels of a shard.

    Members of one key, which is the name up to the first dot of its last part, belong together, as
    for webdataset. Names are keys only: where they would lead on a disk does not matter.

    Args:
        file: opened at its beginning; images in it are passed over.
        shard: what it is called in messages.
        label: as in `check_label`; None: the member .cls, or else .txt.

    Raises:
        UserError: it is compressed, damaged or truncated, or no tar archive, holds a link, a
            device, no image at all, or an image without a label or the reverse, or a key twice.
        OSError: the system fails to read it.
    """
    wanted = {CLASS_NUMBER, CLASS_NAME, JSON} if label is None else {label.partition(".")[0]}
    samples: dict[str, _Sample] = {}
    left_out: Counter[str] = Counter()
    for member in _members(file, shard):
        key, ending = _parted(member.name)
        if key is None or ending not in {*wanted, *IMAGES}:
            left_out[ending] += 1
            continue
        sample = samples.setdefault(key, _Sample())
        if ending in IMAGES:
            if sample.image is not None:
                raise _twice(shard, member.name, sample.image.name)
            sample.image = member
        elif ending in sample.labels:
            raise _twice(shard, member.name, member.name)
        else:
            sample.labels[ending] = _content(file, member, shard, label)
    kind = _kind(samples, label, shard)
    for key in [one for one, sample in samples.items() if _is_beside(sample, kind)]:
        left_out.update(samples.pop(key).labels.keys())
    if not samples:
        raise UserError(
            f"the shard {shard} holds no image ({', '.join(IMAGES[:4])}): leave it out, or replace "
            "it by an intact copy."
        )
    return _contents(samples, kind, label, shard, left_out)


def _members(file: BinaryIO, shard: str) -> Iterator[tarfile.TarInfo]:
    """Give the files of an archive.

    The standard library takes a damaged header for the end, and so does it where the end is cut
    off; the blocks of zeros that an archive ends with are therefore looked for.
    """
    magic = file.read(max(map(len, _MAGIC)))
    if magic.startswith(_MAGIC):
        raise compressed(shard)
    file.seek(0)
    last: str | None = None
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            kept: Any = tar
            while (member := tar.next()) is not None:
                kept.members.clear()  # A million of them need more memory than the images.
                last = member.name
                if member.isdir():
                    continue
                if not member.isreg() or member.sparse is not None:
                    raise UserError(
                        f"the shard {shard} holds {member.name!r}, which is a link, a device or no "
                        "plain file. Make the shard of plain files (tar --dereference --hard-"
                        "dereference), or use a copy from a source that you trust."
                    )
                yield member
            file.seek(tar.offset)
    except tarfile.TarError as error:
        if last is None:
            raise UserError(
                f"the shard {shard} is no tar archive ({error}). Use an intact copy."
            ) from error
        raise _truncated(shard, f"in or behind {last!r}") from error
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise _truncated(shard, f"in or behind {last!r}")


def _parted(name: str) -> tuple[str | None, str]:
    folder, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    if not stem or not dot:
        return None, ""
    return f"{folder}{slash}{stem}", ending.lower()


def _content(file: BinaryIO, member: tarfile.TarInfo, shard: str, label: str | None) -> bytes:
    if label is None and member.name.lower().endswith(f".{JSON}"):
        return b""  # Only with a key it is a label.
    if member.size > LARGEST_LABEL_BYTES:
        raise UserError(
            f"the label {member.name!r} in the shard {shard} has {member.size:,} bytes: no label "
            "is that long. Give dataset.label=... another kind of member."
        )
    file.seek(member.offset_data)
    content = file.read(member.size)
    if len(content) < member.size:
        raise _truncated(shard, f"in {member.name!r}")
    return content


def _kind(samples: Mapping[str, _Sample], label: str | None, shard: str) -> str:
    """Say which member has the labels; where nothing is said, a .txt may hold captions."""
    if label is not None:
        return label.partition(".")[0]
    found = {ending for sample in samples.values() for ending in sample.labels}
    if CLASS_NUMBER in found or not found:
        return CLASS_NUMBER
    if JSON in found:
        raise UserError(
            f"the shard {shard} has no .{CLASS_NUMBER} members: say what is the label by "
            f"dataset.label={JSON}.KEY" + (f" or {CLASS_NAME}." if CLASS_NAME in found else ".")
        )
    return CLASS_NAME


def _is_beside(sample: _Sample, kind: str) -> bool:
    """Say whether these members are neither an image nor its label, but something further."""
    return sample.image is None and kind not in sample.labels


def _contents(
    samples: Mapping[str, _Sample],
    kind: str,
    label: str | None,
    shard: str,
    left_out: Mapping[str, int],
) -> Contents:
    lines = []
    labels: list[int | str] = []
    names, ends = bytearray(), []
    for key, sample in samples.items():
        if sample.image is None:
            raise UserError(
                f"the shard {shard} has a label for {key!r}, and no image of that name "
                f"({', '.join(IMAGES[:4])}): add it, or remove the label."
            )
        if kind not in sample.labels:
            raise UserError(
                f"the image {sample.image.name!r} in the shard {shard} has no label .{kind}: add "
                "it, or say by dataset.label=... which member is the label."
            )
        image = sample.image
        where = f"the label of {image.name!r} in the shard {shard}"
        labels.append(_label(sample.labels[kind], kind, label, where))
        digest = hashlib.blake2b(_utf8(key), digest_size=8).digest()
        lines.append((image.offset_data, image.size, int.from_bytes(digest, "little")))
        names += _utf8(image.name)
        ends.append(len(names))
    offset, size, digests = zip(*lines, strict=True)
    numbers, class_names = _numbered(labels, shard)
    return Contents(
        np.array(offset, np.int64),
        np.array(size, np.int64),
        numbers,
        np.array(digests, np.uint64),
        np.frombuffer(bytes(names), np.uint8),
        np.array(ends, np.int64),
        class_names,
        dict(left_out),
    )


def _label(content: bytes, kind: str, label: str | None, where: str) -> int | str:
    try:
        text = content.decode("utf-8-sig").strip()
        value: Any = text
        if kind == CLASS_NUMBER:
            value = int(text)
        elif kind == JSON:
            value = json.loads(text)
            for key in str(label).split(".")[1:]:
                value = value[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        told = {CLASS_NUMBER: "no integer", CLASS_NAME: "no text in UTF-8"}.get(
            kind, f"no JSON object with {str(label).partition('.')[2]!r}"
        )
        raise UserError(
            f"{where} is {told} ({content[:40]!r}): correct it, or say by dataset.label=... which "
            "member is the label."
        ) from error
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise UserError(f"{where} is {value!r}, neither an integer nor a name: correct it.")
    if isinstance(value, int) and not 0 <= value < 2**31:
        raise UserError(f"{where} is {value}: classes are numbered from 0. Correct it.")
    return value


def _numbered(
    labels: Sequence[int | str], shard: str
) -> tuple[NDArray[np.int64], list[str] | None]:
    names = sorted({label for label in labels if isinstance(label, str)})
    if not names:
        return np.array(labels, np.int64), None
    if any(isinstance(label, int) for label in labels):
        raise UserError(
            f"the shard {shard} has numbers of classes and names among its labels, as "
            f"{at_most(map(repr, names))}: make them alike."
        )
    if len(names) > MOST_CLASSES:
        raise UserError(
            f"the shard {shard} has {len(names):,} different labels, as {at_most(map(repr, names))}"
            ": these are captions. Say by dataset.label=... which member is the label."
        )
    position = {name: number for number, name in enumerate(names)}
    return np.array([position[str(label)] for label in labels], np.int64), names


def _utf8(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _truncated(shard: str, where: str) -> UserError:
    return UserError(f"the shard {shard} is truncated or damaged {where}: use an intact copy.")


def _twice(shard: str, name: str, other: str) -> UserError:
    same = "" if name == other else f" and {other!r}"
    return UserError(
        f"the shard {shard} has more than one member for the key of {name!r}{same}: a key stands "
        "for one image and one label. Remove or rename the others."
    )
