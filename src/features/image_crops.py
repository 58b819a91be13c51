"""Many crops of each image that is classified: how they are drawn, stored and read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.filesize import decimal
from torch import Tensor

from src.clip.crops import Augmentation
from src.data.images import Item
from src.errors import UserError, require_integer
from src.features import disk_space
from src.features.datamodule import Features
from src.features.plan import Crops, Plan
from src.store.writer import EntryWriter

CROPS = "crops"
"""The name of the feature `[n, k, d]`, in `src.heads.base.IMAGE_FEATURES`."""
SETTINGS = "method.test_crops"
ROWS_PER_SHARD = 1024
"""About so many crops are a shard. It does not depend on the batch size, which may be changed
before an extraction that was interrupted goes on."""
BYTES_PER_VALUE, BYTES_PER_LABEL, BYTES_PER_SHARD = 2, 8, 400
"""Of float16, of int64, and of what else a shard and its line in the manifest take, about."""


@dataclass(frozen=True)
class ImageCrops:
    """Which crops of each image a method looks at.

    Crop 0 is the image as CLIP's own inference transform gives it. The others are numbers 1 to
    `crops` - 1 of what an `Augmentation` draws, the same in every run.

    Attributes:
        crops: how many crops of each image, the image itself among them; 2 or more.
        min_scale: the least share of the image's area that a crop keeps, above 0, at most 1.
        horizontal_flip: mirror each crop but the first with a chance of one half.
    """

    crops: int
    min_scale: float
    horizontal_flip: bool

    def __post_init__(self) -> None:
        require_integer(f"{SETTINGS}.crops", self.crops, least=2)
        scale, flip = self.min_scale, self.horizontal_flip
        is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not is_number or not 0 < scale <= 1:
            raise UserError(
                f"{SETTINGS}.min_scale={scale}: give the least share of an image that a crop "
                "keeps, above 0 and at most 1."
            )
        if not isinstance(flip, bool):
            raise UserError(f"{SETTINGS}.horizontal_flip={flip}: give true or false.")

    @property
    def augmentation(self) -> Augmentation:
        """How the crops but the first are drawn."""
        return Augmentation(self.crops - 1, float(self.min_scale), self.horizontal_flip, first=1)

    def described(self, whole: Any, drawn: Any) -> dict[str, Any]:
        """Say for the key of an entry what `order` puts where, of two ways to preprocess."""
        return {"order": "image by image", "first": whole, "others": drawn}

    def plan(self, items: Sequence[Item], batch_size: int, width: int) -> Plan:
        """Plan all crops of one image after those of the other.

        A batch has whole images where `batch_size` is not below the number of crops. The plan says
        how large the entry will be, and refuses to begin where the disk lacks the space.

        Args:
            items: the images.
            batch_size: crops per forward pass, at most.
            width: of the features.
        """
        batch = batch_size - batch_size % self.crops or batch_size
        describe = partial(self._describe, len(items), width)
        order = Crops(items, [None, *range(1, self.crops)], image_by_image=True)
        return Plan(order, self.augmentation, batch, self.rows_per_shard, describe)

    def _describe(self, images: int, width: int, writer: EntryWriter, kind: str) -> str:
        whole = self.size(writer.rows, width)
        missing = self.size(sum(len(writer.rows_of(shard)) for shard in writer.pending), width)
        remedy = (
            "free some space, give a folder on another disk by paths.features=..., or take fewer "
            f"crops by {SETTINGS}.crops=..."
        )
        disk_space.require(writer.path, missing, remedy)
        part = f" ({decimal(missing)} of it missing)" if missing < whole else ""
        return f"{self.crops} crops of each of {images} {kind}, about {decimal(whole)}{part},"

    @property
    def rows_per_shard(self) -> int:
        """Whole images, and about `ROWS_PER_SHARD`."""
        return max(1, ROWS_PER_SHARD // self.crops) * self.crops

    def size(self, rows: int, width: int) -> int:
        """Compute the bytes of so many rows of an entry, whose features have `width` numbers."""
        shards = math.ceil(rows / self.rows_per_shard)
        return rows * (width * BYTES_PER_VALUE + BYTES_PER_LABEL) + shards * BYTES_PER_SHARD


def read(settings: Mapping[str, Any] | None) -> ImageCrops | None:
    """Read `method.test_crops`; None for methods that look at each image once.

    Raises:
        UserError: a setting is unknown, missing or of a wrong value.
    """
    if settings is None:
        return None
    names = tuple(ImageCrops.__dataclass_fields__)
    if not isinstance(settings, Mapping):
        raise UserError(f"{SETTINGS}={settings}: give {', '.join(names)}.")
    for name in settings:
        if name not in names:
            raise UserError(
                f"{SETTINGS}.{name}={settings[name]}: there is no such setting. There are "
                f"{', '.join(names)}."
            )
    for name in names:
        if name not in settings:
            raise UserError(f"{SETTINGS}.{name} has no value: give `+{SETTINGS}.{name}=...`.")
    return ImageCrops(**{name: settings[name] for name in names})


class CropRows:
    """Rows of `global` of an entry image by image, k by k; `Features` itself.

    Row i has `crops` `[k, d]`, all of image i, `global` `[d]`, the first of them, and `label`.
    """

    def __init__(self, features: Features, crops: int) -> None:
        self._features, self._crops = features, crops

    def __len__(self) -> int:
        return len(self._features) // self._crops

    def rows(self, start: int, stop: int) -> dict[str, Tensor]:
        found = self._features.rows(start * self._crops, stop * self._crops)
        crops = found["global"].reshape(stop - start, self._crops, -1)
        return {CROPS: crops, "global": crops[:, 0], "label": found["label"][:: self._crops]}
