"""Read W&B's offline files: protocol buffers in LevelDB's log format after a 7-byte header."""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record, RunRecord

BLOCK = 32768
HEADER = struct.Struct("<IHB")  # checksum, length, kind: 1 full, 2 first, 3 middle, 4 last


class OfflineRun(NamedTuple):
    about: RunRecord
    config: dict[str, Any]
    summary: dict[str, Any]
    artifacts: dict[str, list[str]]  # by name, the paths in each artifact


def read_offline_run(path: Path) -> OfflineRun:
    """What `run-*.wandb` says of its run."""
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    artifacts: dict[str, list[str]] = {}
    about = RunRecord()
    for content in _records(path.read_bytes()):
        record = Record.FromString(content)
        if record.HasField("run"):
            about.MergeFrom(record.run)
        for item in record.config.update:
            config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        for item in record.summary.update:
            summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("artifact"):
            contents = record.artifact.manifest.contents
            artifacts[record.artifact.name] = [entry.path for entry in contents]
    return OfflineRun(about, config, summary, artifacts)


def _records(content: bytes):
    position, parts = 7, b""
    while position + HEADER.size <= len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        _, length, kind = HEADER.unpack_from(content, position)
        if kind == 0:
            return
        position += HEADER.size
        parts += content[position : position + length]
        position += length
        if kind in (1, 4):
            yield parts
            parts = b""
