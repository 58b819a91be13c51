"""Lists of a user's images: a CSV or Parquet file with a path, a class and perhaps a split each."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from src.data.dividing import LabelledFile
from src.data.images import SPLITS
from src.data.text_files import read_text
from src.errors import UserError

KEY = "dataset.csv"
_NEEDED = ("path", "label")
_TEXT = ("string", "large_string", "string_view")
_FETCHING = {
    "http": "wget -x -i ADDRESSES.txt",
    "https": "wget -x -i ADDRESSES.txt",
    "s3": "aws s3 sync s3://BUCKET/FOLDER FOLDER",
    "gs": "gcloud storage rsync -r gs://BUCKET/FOLDER FOLDER",
    "hf": "hf download OWNER/NAME --repo-type dataset --local-dir FOLDER",
}
"""A command for each scheme that fetches many files at once."""


def read_list(table: Path, root: Path) -> list[LabelledFile]:
    """Read which images `table` lists.

    Args:
        table: a Parquet file by its ending, or else a CSV file. It has the columns `path` and
            `label`, text or integers, and maybe `split`; others are ignored.
        root: the folder that the paths start from.

    Returns:
        The images in the list's order, each once.

    Raises:
        UserError: the file cannot be read, or a row is not of this form, names a remote or missing
            file, or one that was listed before; the message names the row.
    """
    images: dict[str, LabelledFile] = {}
    rows = _parquet_rows(table) if table.suffix.lower() == ".parquet" else _csv_rows(table)
    for where, row in rows:
        path = row["path"].strip()
        if "://" in path:
            raise _remote(where, path, root)
        image = LabelledFile(
            row["label"].strip(),
            _below(root, PurePosixPath(path)),
            row["split"].strip() if "split" in row else None,
        )
        _check(image, root, where)
        if image.key in images:
            raise UserError(f"{where} lists {image.key} once more: remove one of the rows.")
        images[image.key] = image
    return list(images.values())


def _csv_rows(table: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    reader = csv.DictReader(io.StringIO(read_text(table, KEY)), strict=True)
    try:
        header = reader.fieldnames or []
        if not set(_NEEDED) <= set(header):
            raise UserError(
                f"{table} must begin with the header path,label or path,label,split, not with "
                f"{','.join(header)!r}."
            )
        for row in reader:
            where = f"{table}, line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"{where} does not have the header's {len(header)} fields: quote a field that "
                    "contains a comma."
                )
            yield where, row
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}. Mend the CSV file.") from None


def _parquet_rows(table: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    import pyarrow
    from pyarrow import parquet

    if not table.is_file():
        raise UserError(f"cannot read {table}: there is no such file. Set {KEY} to a list.")
    try:
        schema = parquet.read_schema(table)
        wanted = [name for name in (*_NEEDED, "split") if name in schema.names]
        if not set(_NEEDED) <= set(wanted):
            raise UserError(
                f"{table} must have the columns path and label, and may have split; it has "
                f"{', '.join(schema.names)}."
            )
        content = parquet.read_table(table, columns=wanted)
        columns = {}
        for name in wanted:
            kind = content.schema.field(name).type
            if pyarrow.types.is_dictionary(kind):
                kind = kind.value_type
            if not (pyarrow.types.is_integer(kind) or str(kind) in _TEXT):
                raise UserError(
                    f"{table}: the column {name} holds {kind}, not text. Write it as strings."
                )
            columns[name] = content[name].to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot read {table}: {reason}. Set {KEY} to a Parquet file.") from None
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        where = f"{table}, row {number}"
        if None in values:
            raise UserError(f"{where} has no {wanted[values.index(None)]}: give one.")
        yield where, dict(zip(wanted, map(str, values), strict=True))


def _remote(where: str, path: str, root: Path) -> UserError:
    scheme, _, rest = path.partition("://")
    host = re.split("[/?#]", rest)[0].rpartition("@")[2]  # What is around it may be a secret.
    remedy = (
        f"Fetch the files first, for example by `{_FETCHING[scheme]}`"
        if scheme in _FETCHING
        else "Put the files on this machine"
    )
    return UserError(
        f"{where}: the path is an address ({scheme}://{host}/...), and images are read from files "
        f"only. {remedy}, and list their paths below {root}."
    )


def _below(root: Path, path: PurePosixPath) -> str:
    """Make a path relative to `root`, if it lies below it."""
    top = root.absolute()
    return str(path.relative_to(top) if path.is_relative_to(top) else path)


def _check(image: LabelledFile, root: Path, where: str) -> None:
    path = PurePosixPath(image.key)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{where}: the path {image.key} does not lead into {root}. Set dataset.path to a "
            "folder that holds all images."
        )
    if not image.label:
        raise UserError(f"{where} has no label: name the class of {image.key}.")
    if image.split is not None and image.split not in SPLITS:
        raise UserError(f"{where}: the split {image.split!r} is none of {', '.join(SPLITS)}.")
    if not (root / path).is_file():
        raise UserError(
            f"{where}: the image {root / path} is missing. Put it there, remove the row, or set "
            "dataset.path to the folder that the paths start from."
        )
