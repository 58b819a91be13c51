"""What an extraction will do: which crops, in which order, in batches and shards of what size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, overload

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


class Crops(Sequence[Crop]):
    """The numbered crops of some images, made when they are asked for: there may be millions."""

    def __init__(
        self, items: Sequence[Item], numbers: Sequence[int | None], image_by_image: bool = False
    ) -> None:
        """List the crops called `numbers` of all `items`.

        A crop of all items comes before the next one, or with `image_by_image` all crops of an item
        before the next item.
        """
        self._items, self._numbers, self._image_by_image = items, numbers, image_by_image

    def __len__(self) -> int:
        return len(self._items) * len(self._numbers)

    @overload
    def __getitem__(self, row: int) -> Crop: ...

    @overload
    def __getitem__(self, row: slice) -> list[Crop]: ...

    def __getitem__(self, row: int | slice) -> Crop | list[Crop]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        if self._image_by_image:
            item, number = divmod(row, len(self._numbers))
        else:
            number, item = divmod(row, len(self._items))
        return Crop(self._items[item], self._numbers[number])


def crop_by_crop(
    items: Sequence[Item], augmentation: AnyAugmentation | None, batch_size: int
) -> Plan:
    """Plan one crop of all images after the other; without `augmentation` each image as it is."""
    numbers: Sequence[int | None] = [None] if augmentation is None else augmentation.numbers
    crops = Crops(items, numbers)
    shard = BATCHES_PER_SHARD * batch_size
    return Plan(crops, augmentation, batch_size, shard, _count)


def _count(writer: EntryWriter, kind: str) -> str:
    return f"{writer.rows} {kind}"
