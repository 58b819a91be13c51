"""Features of point clouds: the frozen CLIP sees each of their depth maps as an image."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import Compose

from src.clip.crops import AnyAugmentation, Crop
from src.clip.model import FrozenClip
from src.clip.projection import DISTANCE, NEAR, RESOLUTION, ROUNDING, depth_maps
from src.clip.weights import load_model
from src.data.point_clouds import PointClouds
from src.features.image_features import ImageFeatures

SCALE = (2 / 3, 3 / 2)
"""How far a copy of a cloud is scaled, along each axis by itself."""

SHIFT = 0.2
"""How far a copy is then moved along each axis, in either direction, in radii of the cloud."""


class DepthMapClip(FrozenClip):
    """The frozen CLIP that reads point clouds in place of images.

    Points `[n, p, 3]` are float32 whose bits are held in int32: Lightning rounds the floats of a
    batch to the precision that CLIP computes in, and bfloat16 would move points by whole pixels.

    Features have one more dimension, the views: `[n, v, d]` and `[n, v, s, d]`. As in PointCLIP's
    release, a depth map is resized bilinearly, repeated for the three channels, and not normalised.
    So the 0 around the cloud is CLIP's mean colour, and the depths from 0.6 to 2.6 are brighter.
    """

    views: int

    @classmethod
    def load_for(cls, architecture: str, pretrained: str | None, views: int) -> "DepthMapClip":
        """Build a model as `FrozenClip.load` does, for 6 or 10 views."""
        model, tokenizer, _ = load_model(architecture, pretrained)
        clip = cls(model, tokenizer, Compose([_bits]), architecture)
        clip.views = views
        return clip

    def transform(self, augmentation: AnyAugmentation | None) -> Callable[[Any, Crop], Tensor]:
        return _look

    @torch.no_grad()
    def encode_image(self, images: Int32[Tensor, "n p 3"]) -> Float[Tensor, "n v d"]:
        return self._by_cloud(super().encode_image(self._images(images)))

    @torch.no_grad()
    def encode_image_spatial(
        self, images: Int32[Tensor, "n p 3"]
    ) -> tuple[Float[Tensor, "n v d"], Float[Tensor, "n v s d"]]:
        whole, spatial = super().encode_image_spatial(self._images(images))
        return self._by_cloud(whole), self._by_cloud(spatial)

    @torch.no_grad()
    def encode_image_unprojected(self, images: Int32[Tensor, "n p 3"]) -> Float[Tensor, "n v w"]:
        return self._by_cloud(super().encode_image_unprojected(self._images(images)))

    def _by_cloud(self, features: Float[Tensor, "nv ..."]) -> Float[Tensor, "n v ..."]:
        return features.view(-1, self.views, *features.shape[1:])

    def _images(self, points: Int32[Tensor, "n p 3"]) -> Float[Tensor, "nv 3 h w"]:
        exact = points if points.is_floating_point() else points.view(torch.float32)
        maps = depth_maps(exact, self.views)
        # Without antialiasing, reducing to `tiny`'s 32 pixels would lose most points.
        reducing = min(self.image_size) < RESOLUTION[self.views]
        grid: dict[str, Any] = {"antialias": True} if reducing else {"align_corners": True}
        images = interpolate(
            maps.flatten(end_dim=1).unsqueeze(1), self.image_size, mode="bilinear", **grid
        )
        return images.expand(-1, 3, -1, -1).to(next(self.model.parameters()).dtype)


class PointCloudFeatures(ImageFeatures):
    """Features `[n, v, ...]` of point clouds, out of the store.

    A support set has the clouds as they are, as a single crop in the sense of `Support`, or copies
    of them that are scaled and moved; cropping and mirroring are for photographs.
    """

    n_views: int
    _kind = "point clouds"

    def __init__(self, dataset: PointClouds, batch_size: int, **settings: Any) -> None:
        """Take what `ImageFeatures` does; `batch_size` counts depth maps."""
        clouds: Any = dataset  # Extraction passes what it loads to CLIP, which reads points here.
        super().__init__(dataset=clouds, batch_size=max(1, batch_size // dataset.views), **settings)
        self.n_views, self._points = dataset.views, dataset.points

    def _preprocessing(self, augmentation: AnyAugmentation | None) -> Any:
        copies = {} if augmentation is None else {
            "copies": augmentation.crops, "first": augmentation.first, "scale": SCALE,
            "shift": SHIFT,
        }  # fmt: skip
        return copies | {
            "views": self.n_views,
            "points": self._points,
            "resolution": RESOLUTION[self.n_views],
            "distance": DISTANCE[self.n_views],
            "near": NEAR,
            "rounding": ROUNDING,
        }

    def loader(self, pretrained: str | None) -> Callable[[], DepthMapClip]:
        return partial(DepthMapClip.load_for, self.architecture, pretrained, self.n_views)


def _bits(points: NDArray[np.float32]) -> Int32[Tensor, "p 3"]:
    return torch.from_numpy(points.view(np.int32))


def _look(points: NDArray[np.float32], crop: Crop) -> Int32[Tensor, "p 3"]:
    """Scale and move a copy that has a number, as PointCLIP's training does.

    The release shuffles the points too, which changes no depth map.
    """
    if crop.number is not None:
        generator = np.random.default_rng(crop.seed)
        scale, shift = generator.uniform(*SCALE, 3), generator.uniform(-SHIFT, SHIFT, 3)
        points = (points * scale + shift).astype(np.float32)
    return _bits(points)
