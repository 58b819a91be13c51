"""Random crops of an image and random copies of a point cloud, the same every time."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms import (
    Compose,
    InterpolationMode,
    RandomHorizontalFlip,
    RandomResizedCrop,
)

from src.data.images import Item
from src.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """How to draw crops of an image, each resized bicubically and perhaps mirrored.

    Attributes:
        crops: how many crops of each image, 1 or more.
        min_scale: the least share of the image's area that a crop keeps, above 0, at most 1.
        horizontal_flip: mirror each crop with a chance of one half.
        first: the number of the first crop; other numbers are other crops.
    """

    crops: int
    min_scale: float
    horizontal_flip: bool
    first: int = 0

    def __post_init__(self) -> None:
        if self.crops < 1 or not 0 < self.min_scale <= 1:
            raise UserError(
                f"crops={self.crops} must be 1 or more, and min_scale={self.min_scale} above 0 and "
                "at most 1: correct method.support, or method.training.crops."
            )

    @property
    def numbers(self) -> range:
        """The numbers of the crops."""
        return range(self.first, self.first + self.crops)


@dataclass(frozen=True)
class CloudAugmentation:
    """How many copies of a point cloud to draw, each scaled and moved.

    Attributes:
        crops: how many copies of each cloud, 1 or more.
        first: the number of the first copy; other numbers are other copies.
    """

    crops: int
    first: int = 0

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise UserError(f"method.support.copies={self.crops}: give 1 or more, or null.")

    @property
    def numbers(self) -> range:
        """The numbers of the copies."""
        return range(self.first, self.first + self.crops)


AnyAugmentation = Augmentation | CloudAugmentation


class Crop(NamedTuple):
    """One crop of one image; the number None stands for CLIP's own inference transform.

    Of a point cloud, it is a copy that is scaled and moved, or the cloud itself.
    """

    item: Item
    number: int | None

    @property
    def seed(self) -> int:
        """What decides the crop: the image's key and the number, and nothing else."""
        digest = hashlib.sha256(f"{self.number} {self.item.key}".encode()).digest()
        return int.from_bytes(digest[:8], "little")


class CropTransform:
    """Turn an image into what CLIP reads: float32 `[3, h, w]`.

    A crop depends only on the image's key and the crop's number: not on the order of images, the
    number of workers or the run's seed.
    """

    def __init__(
        self, inference: Compose, size: tuple[int, int], augmentation: Augmentation | None
    ) -> None:
        """Derive the transform from CLIP's own.

        Args:
            inference: CLIP's inference transform, which ends in to-tensor and normalisation.
            size: height and width that CLIP reads.
            augmentation: how to crop; None if there are only crops without a number.
        """
        self.inference = inference
        if augmentation is not None:
            self.augmented = Compose(
                [
                    RandomResizedCrop(
                        size,
                        scale=(augmentation.min_scale, 1.0),
                        interpolation=InterpolationMode.BICUBIC,
                    ),
                    RandomHorizontalFlip(0.5 if augmentation.horizontal_flip else 0.0),
                    *inference.transforms[-2:],
                ]
            )

    def __call__(self, image: Image.Image, crop: Crop) -> Float[Tensor, "3 h w"]:
        tensor: Tensor
        if crop.number is None:
            tensor = self.inference(image)
            return tensor
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(crop.seed)
            tensor = self.augmented(image)
            return tensor
