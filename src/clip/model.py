"""The frozen CLIP: its image features and its text features."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torchvision.transforms import Compose

from src.clip import text
from src.clip.crops import AnyAugmentation, CloudAugmentation, Crop, CropTransform
from src.clip.text import TextFeatures
from src.clip.weights import load_model
from src.errors import UserError


class Projection(NamedTuple):
    """A linear layer into the joint space: x -> x · weight + bias.

    Attributes:
        weight: float32 `[w, d]`.
        bias: float32 `[d]`; 0 for vision transformers, which have none.
    """

    weight: Tensor
    bias: Tensor


class FrozenClip(nn.Module):
    """A CLIP model of open_clip whose weights never change.

    Attributes:
        logit_scale: the factor on cosine similarities, 100 for OpenAI's models.
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
        size = self.model.visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)

    @classmethod
    def load(cls, architecture: str, pretrained: str | None) -> "FrozenClip":
        """Build a model in float32 with its weights; see `src.clip.weights.load_model`."""
        return cls(*load_model(architecture, pretrained), architecture)

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

    def encode(
        self, images: Shaped[Tensor, "n ..."], names: Collection[str]
    ) -> dict[str, Float[Tensor, "n ..."]]:
        """Compute the features that `names` lists (`src.heads.base.IMAGE_FEATURES`), by name.

        Raises:
            UserError: the architecture does not have one of them.
        """
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
        """Compute global features in the joint space, not normalised.

        Works for every architecture.
        """
        from open_clip.modified_resnet import ModifiedResNet

        visual = self.model.visual
        if isinstance(visual, ModifiedResNet):
            return _global_attention_pool(visual.attnpool, _trunk(visual, images))
        features: Tensor = self.model.encode_image(images, normalize=False)
        return features

    @torch.no_grad()
    def encode_image_spatial(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n s d"]]:
        """Compute global and spatial features in the joint space by one forward pass.

        A position's spatial feature is computed in the way of the global one, as in CALIP (Guo et
        al., 2023): ResNets run the attention pooling with every position as a query; vision
        transformers send every patch token through the last normalisation and the projection.

        Returns:
            The global features, equal to `encode_image`'s, and the spatial ones, row by row from
            the top left; neither normalised.

        Raises:
            UserError: the architecture has no such features (towers from timm, attentional
                pooling, normalisation after the pooling).
        """
        from open_clip.modified_resnet import ModifiedResNet
        from open_clip.transformer import VisionTransformer

        visual = self.model.visual
        if isinstance(visual, ModifiedResNet):
            tokens = _attention_pool(visual.attnpool, _trunk(visual, images))
            return tokens[:, 0], tokens[:, 1:]
        if (
            isinstance(visual, VisionTransformer)
            and visual.pool_type in ("tok", "avg")
            and visual.attn_pool is None
            and not visual.final_ln_after_pool
        ):
            output = visual.forward_intermediates(
                images, indices=1, normalize_intermediates=True, output_fmt="NLC"
            )
            return output["image_features"], output["image_intermediates"][0] @ visual.proj
        raise UserError(
            f"spatial features of {self.architecture} are not defined: choose a ResNet or a ViT "
            "as OpenAI's, or a method that needs global features only."
        )

    @torch.no_grad()
    def encode_image_unprojected(
        self, images: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, "n w"]:
        """Compute what the image tower's last linear layer, `projection`, takes into joint space.

        Raises:
            UserError: the tower does not end in one linear layer.
        """
        from open_clip.modified_resnet import ModifiedResNet

        visual = self.model.visual
        if isinstance(visual, ModifiedResNet):
            return _joined_heads(visual.attnpool, _trunk(visual, images))
        if self._ends_in_matrix:
            pooled, _ = visual._pool(visual.transformer(visual._embeds(images)))
            return cast(Tensor, pooled)
        raise self._no_projection()

    @property
    def projection(self) -> Projection:
        """The linear layer that the image tower ends in.

        Raises:
            UserError: it does not end in one.
        """
        from open_clip.modified_resnet import ModifiedResNet

        visual = self.model.visual
        if isinstance(visual, ModifiedResNet):
            layer = visual.attnpool.c_proj
            return Projection(layer.weight.detach().T, layer.bias.detach())
        if self._ends_in_matrix:
            weight = visual.proj.detach()
            return Projection(weight, torch.zeros_like(weight[0]))
        raise self._no_projection()

    @property
    def _ends_in_matrix(self) -> bool:
        from open_clip.transformer import VisionTransformer

        visual = self.model.visual
        return isinstance(visual, VisionTransformer) and visual.proj is not None

    def _no_projection(self) -> UserError:
        return UserError(
            f"the image tower of {self.architecture} does not end in one linear layer: choose a "
            "ResNet or a ViT as OpenAI's, or a method that needs global features only."
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


def _trunk(visual: Any, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n s width"]:
    """Compute what a ResNet's attention pooling reads: a token for each position."""
    output = visual.forward_intermediates(images, indices=1, intermediates_only=True)
    trunk: Tensor = output["image_intermediates"][0]
    return trunk.flatten(start_dim=2).transpose(1, 2)


def _with_mean(pool: Any, tokens: Float[Tensor, "n s width"]) -> Float[Tensor, "n 1+s width"]:
    """Put the mean's token before those of the positions, and add their embeddings."""
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    return tokens + pool.positional_embedding.to(tokens.dtype)


def _attention_pool(pool: Any, tokens: Float[Tensor, "n s width"]) -> Float[Tensor, "n 1+s d"]:
    """Compute OpenAI's attention pooling with all positions as queries, the mean's token first."""
    tokens = _with_mean(pool, tokens)
    query, key, value = (
        project(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for project in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    attended = scaled_dot_product_attention(query, key, value)
    pooled: Tensor = pool.c_proj(attended.transpose(1, 2).flatten(start_dim=2))
    return pooled


def _global_attention_pool(pool: Any, tokens: Float[Tensor, "n s width"]) -> Float[Tensor, "n d"]:
    """Compute OpenAI's attention pooling with the mean's token as the only query."""
    pooled: Tensor = pool.c_proj(_joined_heads(pool, tokens))
    return pooled


def _joined_heads(pool: Any, tokens: Float[Tensor, "n s width"]) -> Float[Tensor, "n w"]:
    """Compute what the attention pooling's last layer takes, with the mean's token as query.

    For a single query, the projections of keys and values are applied to what is compared with
    the positions and to what is attended to, once an image in place of once a position: q · (W x)
    is (Wᵀ q) · x, and the keys' bias adds the same to all positions.
    """
    tokens = _with_mean(pool, tokens)
    query, key, value = (
        weights.unflatten(0, (pool.num_heads, -1))
        for weights in (pool.q_proj(tokens[:, 0]).T, pool.k_proj.weight, pool.v_proj.weight)
    )
    sought = query.permute(0, 2, 1) @ key  # [heads, n, width]
    affinity = sought.transpose(0, 1) @ tokens.mT / math.sqrt(key.shape[1])
    attended = affinity.softmax(dim=-1) @ tokens  # [n, heads, width]
    joined: Tensor = (attended.transpose(0, 1) @ value.mT).transpose(0, 1).flatten(start_dim=1)
    return joined + pool.v_proj.bias
