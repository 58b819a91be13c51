"""Which columns of a table on the Hub hold images and classes, and the classes as numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.data.text_files import listing
from src.errors import UserError

LABEL = "label"
"""The column that holds the classes where no feature says so."""
HIDDEN = -1
"""In place of the labels of a test split that its authors keep to themselves."""


class Classes(NamedTuple):
    """The classes of all rows that are used.

    Attributes:
        names: of the classes, as the dataset has them.
        labels: of each split, int64 `[N]`, positions in `names`.
    """

    names: list[str]
    labels: Mapping[str, NDArray[np.int64]]


def find_columns(
    tables: Mapping[str, Any], image: str | None, label: str | None, origin: str
) -> tuple[str, str]:
    """Find the columns of images and of classes, by what the features say.

    Args:
        tables: a `datasets.Dataset` for each split.
        image: the user's choice, or None.
        label: likewise.
        origin: the dataset, for messages.

    Raises:
        UserError: a column is missing in a split, of another type, or there are several.
    """
    import datasets

    features = next(iter(tables.values())).features
    images = [name for name, one in features.items() if isinstance(one, datasets.Image)]
    images = images or [name for name, one in features.items() if _holds_bytes(one)]
    image = _choice("image", image, images, images, features, origin)
    classes = [name for name, one in features.items() if isinstance(one, datasets.ClassLabel)]
    possible = [name for name, one in features.items() if name in classes or _is_plain(one)]
    likely = classes or [name for name in possible if name == LABEL]
    label = _choice("label", label, possible, likely, features, origin)
    for split, table in tables.items():
        for name in (image, label):
            if table.features.get(name) != features[name]:
                raise UserError(
                    f"{origin}: the column {name!r} of the split {split!r} is missing, or is of "
                    "another type than in the others. Choose splits by dataset.split, or mend it."
                )
    return image, label


def _choice(
    key: str,
    given: str | None,
    possible: Sequence[str],
    likely: Sequence[str],
    features: Mapping[str, Any],
    origin: str,
) -> str:
    """Take the given column, or the likely one."""
    noun = {"image": "images", "label": "classes"}[key]
    if given is not None:
        if given in possible:
            return given
        wrong = f"has no {noun} in that column" if given in features else "has no such column"
        raise UserError(
            f"dataset.{key}={given}: {origin} {wrong}. Choose among "
            f"{listing(possible or list(features))}."
        )
    if len(likely) == 1:
        return likely[0]
    if likely or possible:
        raise UserError(
            f"{origin} does not say which column holds {noun}: choose it by dataset.{key}=... "
            f"Among {listing(likely or possible)}."
        )
    raise UserError(
        f"{origin} has no column that can hold {noun}: its columns are {listing(list(features))}."
    )


def _holds_bytes(feature: Any) -> bool:
    """Say whether it is what becomes of images without the library's own notes in a file."""
    if isinstance(feature, dict):
        return "bytes" in feature and _holds_bytes(feature["bytes"])
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _is_plain(feature: Any) -> bool:
    kind = str(getattr(feature, "dtype", ""))
    return kind in ("string", "large_string") or kind.startswith(("int", "uint"))


def read_classes(tables: Mapping[str, Any], label: str, origin: str) -> Classes:
    """Read the labels of all tables from the column `label`, each as one array.

    Raises:
        UserError: one is missing, hidden, blank or out of range.
    """
    import datasets

    arrow = {
        name: each.select_columns([label]).with_format("arrow")[:].column(0)
        for name, each in tables.items()
    }
    for name, each in arrow.items():
        if each.null_count:
            row = int(np.flatnonzero(each.is_null().to_numpy())[0])
            raise UserError(
                f"{origin}, split {name!r}, row {row}: there is no label, and in "
                f"{each.null_count:,} of {len(each):,} rows. Choose another column by "
                "dataset.label or another split by dataset.split, or mend the dataset."
            )
    feature = next(iter(tables.values())).features[label]
    if "string" in feature.dtype:
        return _words(arrow, origin)
    numbers = {name: each.to_numpy().astype(np.int64) for name, each in arrow.items()}
    for name, each in numbers.items():
        _check_hidden(each, name, origin)
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
        for name, each in numbers.items():
            _check_range(each, len(names), name, origin)
        return Classes(names, numbers)
    known = np.unique(np.concatenate(list(numbers.values())))
    labels = {name: np.searchsorted(known, each) for name, each in numbers.items()}
    return Classes([str(one) for one in known], labels)


def _words(arrow: Mapping[str, Any], origin: str) -> Classes:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = sorted({one for each in arrow.values() for one in pc.unique(each).to_pylist()})
    known = pa.array(names, type=next(iter(arrow.values())).type)
    labels = {
        name: pc.index_in(each, value_set=known).to_numpy().astype(np.int64)
        for name, each in arrow.items()
    }
    for number, word in enumerate(names):
        if not word.strip():
            rows = {name: np.flatnonzero(each == number) for name, each in labels.items()}
            split, where = next((one, each) for one, each in rows.items() if len(each))
            raise UserError(
                f"{origin}, split {split!r}, row {where[0]}: the label is blank. Mend the dataset."
            )
    return Classes(names, labels)


def _check_hidden(labels: NDArray[np.int64], split: str, origin: str) -> None:
    hidden = np.flatnonzero(labels == HIDDEN)
    if len(hidden):
        raise UserError(
            f"{origin}, split {split!r}, row {hidden[0]}: the label is {HIDDEN}, and in "
            f"{len(hidden):,} of {len(labels):,} rows: its authors do not publish it. Measure on "
            "another split, as by dataset.split.test=validation."
        )


def _check_range(labels: NDArray[np.int64], classes: int, split: str, origin: str) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"{origin}, split {split!r}, row {wrong[0]}: the label is {labels[wrong[0]]}, and the "
            f"{classes:,} classes are 0 to {classes - 1}. Mend the dataset, or choose another "
            "column by dataset.label."
        )
