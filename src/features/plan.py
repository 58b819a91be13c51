"""What an extraction will do: which crops, in which order, in batches and shards of what size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from src.clip.crops import AnyAugmentation, Crop
from src.data.images import Item
from src.store.writer import EntryWriter

BATCHES_PER_SHARD = 4


class Plan(NamedTuple):
    """An extraction, as the rows of an entry.

    Attributes:
        crops: one for each row.
        augmentation: how the numbered ones are drawn.
        rows_per_batch: images per forward pass.
        rows_per_shard: rows of each shard of the entry but the last.
        describe: says what is extracted, given the entry's writer and the word for what the dataset
            holds; it may refuse to begin, by a `UserError`.
    """

    crops: Sequence[Crop]
    augmentation: AnyAugmentation | None
    rows_per_batch: int
    rows_per_shard: int
    describe: Callable[[EntryWriter, str], str]


def crop_by_crop(
    items: Sequence[Item], augmentation: AnyAugmentation | None, batch_size: int
) -> Plan:
    """Plan one crop of all images after the other; without `augmentation` each image as it is."""
    numbers = [None] if augmentation is None else augmentation.numbers
    crops = [Crop(item, number) for number in numbers for item in items]
    shard = BATCHES_PER_SHARD * batch_size
    return Plan(crops, augmentation, batch_size, shard, _count)


def _count(writer: EntryWriter, kind: str) -> str:
    return f"{writer.rows} {kind}"
