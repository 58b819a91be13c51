"""The datasets of CLIP_benchmark: shards with the names of their classes and templates beside them.

A folder holds `classnames.txt`, `zeroshot_classification_templates.txt`, perhaps
`dataset_type.txt`, and for each split `nshards.txt` and the shards `0.tar`, `1.tar`, ...
"""

from pathlib import Path

from src.data.images import SPLITS
from src.data.text_files import read_lines
from src.data.webdataset import snapshot
from src.data.webdataset.reader import CLASS_NAMES, TarImages, assemble, names_of_numbers
from src.data.webdataset.shards import LocalShard, Shard
from src.errors import UserError

TYPE, COUNT = "dataset_type.txt", "nshards.txt"


def read(
    path: str,
    task: str | None,
    revision: str | None,
    label: str | None,
    split_seed: int,
    store: str,
) -> TarImages:
    """Read one dataset.

    Args:
        path: its folder.
        task: CLIP_benchmark's name of it, for messages.
        revision: of the repository, which must be the one that was fetched; None: any.
        label: the member that has the label, as for `src.data.webdataset.reader.read`.
        split_seed: decides which images of train are drawn for val.
        store: the feature store's folder, where indexes are kept.

    Raises:
        UserError: it was not fetched or not as a whole, it is not for classification, or a shard is
            unusable.
    """
    if task is None:
        raise UserError("which dataset of CLIP_benchmark? Give dataset.task=..., as vtab/cifar100.")
    root = Path(path)
    fetch = f"Run `python -m src.prepare dataset=clip_benchmark dataset.task={task}`"
    if not root.is_dir():
        raise UserError(
            f"the folder {root} is missing. {fetch}, or put a dataset of CLIP_benchmark there."
        )
    kind = read_lines(root / TYPE, fetch)[0] if (root / TYPE).exists() else "classification"
    if kind.lower() != "classification":
        raise UserError(
            f"{root} is for {kind}, as its {TYPE} says: choose a task of classification."
        )
    source = snapshot.check(root, revision, fetch)
    shards = {split: _shards(root / split, fetch) for split in SPLITS if (root / split).is_dir()}
    if not shards:
        raise UserError(f"{root} holds none of the folders {', '.join(SPLITS)}. {fetch}.")
    names = names_of_numbers(root / CLASS_NAMES)
    images = assemble(str(root), shards, names, None, label, split_seed, Path(store))
    if source is None:
        return images
    note = f"fetched from {source.repository}, revision {source.commit}"
    return TarImages(
        images.root, images.class_names, images.splits, images.tables, [*images.notes, note]
    )


def _shards(folder: Path, fetch: str) -> list[Shard]:
    text = read_lines(folder / COUNT, f"{fetch}.")[0]
    if not text.isdigit() or not 0 < int(text) <= 100_000:
        raise UserError(f"{folder / COUNT} is {text!r}, no number of shards. {fetch} again.")
    return [LocalShard(folder / f"{number}.tar") for number in range(int(text))]
