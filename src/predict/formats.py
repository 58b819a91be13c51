"""The answers as a file: CSV, JSON Lines or Parquet, a row for each picture, in bounded memory."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from src.predict.part import unpacked

Answer = dict[str, Any]
"""`path`, `class`, `probability`, `label`, `top` and perhaps `set` and `features`."""
ROWS_PER_GROUP = 1024
"""How many rows of a Parquet file are in memory at once."""


def write(answers: Iterable[Answer], path: Path, columns: Sequence[str], views: bool) -> None:
    """Write answers in the format that the suffix of `path` names.

    Args:
        answers: as `src.predict.part` keeps them.
        path: the file.
        columns: what is written of each; what an answer lacks is null, in CSV empty.
        views: whether a picture has several features, one of each depth map.
    """
    rows = ({column: _value(answer, column) for column in columns} for answer in answers)
    if path.suffix == ".csv":
        _csv(rows, path, columns)
    elif path.suffix == ".jsonl":
        _jsonl(rows, path)
    else:
        _parquet(rows, path, columns, views)


def shown(path: str) -> str:
    r"""Write a path as text: bytes of it that are not UTF-8 as \xNN."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _value(answer: Answer, column: str) -> Any:
    value = answer.get(column)
    if value is None:
        return None
    return shown(value) if column == "path" else unpacked(value) if column == "features" else value


def _csv(rows: Iterator[Answer], path: Path, columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        for row in rows:
            lines.writerow(
                json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
                for value in row.values()
            )


def _jsonl(rows: Iterator[Answer], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            if (features := row.get("features")) is not None:
                row["features"] = features.tolist()
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _parquet(rows: Iterator[Answer], path: Path, columns: Sequence[str], views: bool) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    feature = pa.list_(pa.float32())
    kinds = {
        "probability": pa.float64(),
        "top": pa.list_(pa.struct([("class", pa.string()), ("probability", pa.float64())])),
        "set": pa.list_(pa.string()),
        "features": pa.list_(feature) if views else feature,
    }
    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in columns])
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, ROWS_PER_GROUP)):
            for row in group:
                if row["top"] is not None:
                    row["top"] = [{"class": name, "probability": p} for name, p in row["top"]]
                if views and row.get("features") is not None:
                    row["features"] = list(row["features"])
            arrays = [pa.array([row[one.name] for row in group], one.type) for one in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
