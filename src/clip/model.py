"""The frozen CLIP: its image features and its text features."""

from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn
from torchvision.transforms import Compose, PILToTensor

from src.clip import text
from src.clip.crops import AnyAugmentation, CloudAugmentation, Crop, CropTransform
from src.clip.preprocessing import Preprocessing
from src.clip.text import TextFeatures
from src.clip.towers import NoPositionsError, Projection, Tower, as_tower
from src.clip.weights import load_model
from src.errors import UserError


class FrozenClip(nn.Module):
    """A CLIP model of open_clip whose weights never change.

    Attributes:
        logit_scale: the factor on cosine similarities, 100 for OpenAI's models.
        logit_bias: what models trained with a sigmoid add to them then; 0 for the others.
        image_size: height and width that the model reads, in pixels.
        preprocess: open_clip's inference transform, PIL image to float32 `[3, H, W]`; its last
            step is the `Normalize` with the mean and the standard deviation of the weights.
        tokenizer: open_clip's tokenizer, strings to int64 `[n, context_length]`.
        model: open_clip's model, in evaluation mode; no parameter requires a gradient.
    """

    model: Any

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        preprocess: Compose,
        architecture: str,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.architecture = architecture
        self.logit_scale = float(self.model.logit_scale.exp())
        self.logit_bias = float(getattr(self.model, "logit_bias", None) or 0.0)
        size = self.model.visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)

    @classmethod
    def load(
        cls, architecture: str, pretrained: str | None, preprocessing: Preprocessing = None
    ) -> "FrozenClip":
        """Build a model in float32 with its weights; see `src.clip.weights.load_model`."""
        return cls(*load_model(architecture, pretrained, preprocessing), architecture)

    def transform(self, augmentation: AnyAugmentation | None) -> Callable[[Any, Crop], Tensor]:
        """Make what turns what a dataset loads into what `encode` reads, crop by crop.

        Args:
            augmentation: how to draw the crops that have a number; None if there are none.

        Raises:
            TypeError: it is made for point clouds.
        """
        if isinstance(augmentation, CloudAugmentation):
            raise TypeError("copies of point clouds are drawn for depth maps, not for photographs")
        return CropTransform(self.preprocess, self.image_size, augmentation)

    def pixels(self, augmentation: AnyAugmentation | None) -> Callable[[Any, Crop], Tensor]:
        """Make what `transform` makes, but of photographs the pixels alone: uint8 `[3, h, w]`.

        That is a quarter of the bytes to hand from one process to another, and `encode` takes the
        last two steps.

        Raises:
            TypeError: as `transform`.
        """
        transform = self.transform(augmentation)
        if isinstance(transform, CropTransform):
            transform = copy(transform)
            transform.inference = _in_8_bits(transform.inference)
            if augmentation is not None:
                transform.augmented = _in_8_bits(transform.augmented)
        return transform

    def normalise(self, pixels: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Take the last two steps of `preprocess`, in float32 and equal to it to the last bit."""
        # A number in place of this tensor would be multiplied by its inverse on a GPU.
        white = torch.full((), 255.0, dtype=torch.float32, device=pixels.device)
        images: Tensor = self.preprocess.transforms[-1](pixels.to(torch.float32) / white)
        return images.to(next(self.model.visual.parameters()).dtype)

    def encode(
        self, images: Shaped[Tensor, "n ..."], names: Collection[str]
    ) -> dict[str, Float[Tensor, "n ..."]]:
        """Compute the features that `names` lists (`src.heads.base.IMAGE_FEATURES`), by name.

        Args:
            images: what `transform` or `pixels` gives, stacked.
            names: of the features.

        Raises:
            UserError: the architecture does not have one of them.
        """
        if images.dtype == torch.uint8:
            images = self.normalise(images)
        features: dict[str, Tensor] = {}
        if "unprojected" in names:
            weight, bias = self.projection
            features["unprojected"] = self.encode_image_unprojected(images)
            features["global"] = features["unprojected"] @ weight + bias
        if "spatial" in names:
            features["global"], features["spatial"] = self.encode_image_spatial(images)
        return features or {"global": self.encode_image(images)}

    @torch.no_grad()
    def encode_image(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Compute global features in the joint space, not normalised."""
        tower = self._tower
        return tower.project(tower.pool(tower.trunk(images)))

    @torch.no_grad()
    def encode_image_spatial(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n s d"]]:
        """Compute global and spatial features in the joint space by one forward pass.

        A position's spatial feature is computed in the way of the global one: see
        `src.clip.towers`.

        Returns:
            The global features, equal to `encode_image`'s, and the spatial ones, row by row from
            the top left; neither normalised.

        Raises:
            UserError: the architecture has no such features.
        """
        tower = self._tower
        trunk = tower.trunk(images)
        try:
            positions = tower.pool_positions(trunk)
        except NoPositionsError as error:
            raise UserError(
                f"spatial features of {self.architecture} are not defined: {error}. Choose another "
                "backbone, or a method that needs global features only."
            ) from error
        return tower.project(tower.pool(trunk)), tower.project(positions)

    @torch.no_grad()
    def encode_image_unprojected(
        self, images: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, "n w"]:
        """Compute what the image tower's last linear layer, `projection`, takes into joint space.

        Raises:
            UserError: the tower does not end in one linear layer.
        """
        tower = self._tower
        if tower.projection is None:
            raise self._no_projection()
        return tower.pool(tower.trunk(images))

    @property
    def projection(self) -> Projection:
        """The linear layer that the image tower ends in.

        Raises:
            UserError: it does not end in one.
        """
        if (projection := self._tower.projection) is None:
            raise self._no_projection()
        return projection

    @property
    def _tower(self) -> Tower:
        return as_tower(self.model.visual)

    def _no_projection(self) -> UserError:
        return UserError(
            f"the image tower of {self.architecture} does not end in one linear layer: choose a "
            "backbone that does, as OpenAI's, or another method."
        )

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[Sequence[str]]) -> Float[Tensor, "p d"]:
        """Compute the feature of each prompt, class after class, as the text tower gives it.

        Raises:
            UserError: as `encode_text`, but for classes that are alike.
        """
        flat = [prompt for of_class in prompts for prompt in of_class]
        text.check_prompts(flat, self.tokenizer, self.model, self.architecture)
        return text.encode(flat, self.tokenizer, self.model)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[Sequence[str]]) -> TextFeatures:
        """Compute the text features of each class from its prompts.

        Args:
            prompts: for every class, one prompt or more.

        Raises:
            UserError: a prompt is longer than the model's context or has a word that the model
                never saw in training, or two classes with different prompts get the same feature.
        """
        features = text.join(self.encode_prompts(prompts), [len(one) for one in prompts])
        text.check_distinct(features.text, prompts, self.architecture)
        return features


def _in_8_bits(transform: Compose) -> Compose:
    """Put the pixels in place of the last two steps, to tensor and normalisation."""
    return Compose([*transform.transforms[:-2], PILToTensor()])
