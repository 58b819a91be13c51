"""The image towers of open_clip, each in three steps: a trunk, a pooling, and a last linear layer.

A position takes the way of the global feature, as in CALIP (Guo et al., 2023). What comes out of
the trunk for it goes alone through whatever the pooled output of all positions goes through:

- OpenAI's ResNets pool by attention with the mean as the query; for a position, it is the query.
- A vision transformer's patch takes the class token's place, or that of the mean.
- Attention over a single token gives the token's value, whatever the query: so does the pooling of
  CoCa, SigLIP and Perception Encoder (PE) for a position.
- A convolutional tower's position is a map of one position.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.clip.attention_pool import pool_image, pool_positions


class Projection(NamedTuple):
    """A linear layer into the joint space: x -> x · weight + bias.

    Attributes:
        weight: float32 `[w, d]`.
        bias: float32 `[d]`; 0 for layers that have none, as in vision transformers.
    """

    weight: Tensor
    bias: Tensor


class NoPositionsError(ValueError):
    """A tower has no features of positions; the text says why, in the middle of a sentence."""


class Tower(ABC):
    """An image tower, in evaluation mode. Nothing is normalised to unit length."""

    projection: Projection | None
    """The last step, `project`; None if it is not one linear layer."""

    @abstractmethod
    def trunk(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n ..."]:
        """Compute what is pooled."""

    @abstractmethod
    def pool(self, trunk: Float[Tensor, "n ..."]) -> Float[Tensor, "n w"]:
        """Compute what the last step takes for an image."""

    @abstractmethod
    def pool_positions(self, trunk: Float[Tensor, "n ..."]) -> Float[Tensor, "n s w"]:
        """Compute what the last step takes for each position, row by row from the top left.

        Raises:
            NoPositionsError: the tower has none.
        """

    @abstractmethod
    def project(self, pooled: Float[Tensor, "... w"]) -> Float[Tensor, "... d"]:
        """Take the pooled features into the joint space: the last step."""


def as_tower(visual: Any) -> Tower:
    """Take an image tower of open_clip apart; its weights are shared, not copied."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, ModifiedResNet):
        return _ResNet(visual)
    return _VisionTransformer(visual) if isinstance(visual, VisionTransformer) else _Timm(visual)


class _ResNet(Tower):
    """OpenAI's ResNets."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self.projection = _of_linear(visual.attnpool.c_proj)

    def trunk(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n s width"]:
        output = self._visual.forward_intermediates(images, indices=1, intermediates_only=True)
        features: Tensor = output["image_intermediates"][0]
        return features.flatten(start_dim=2).transpose(1, 2)

    def pool(self, trunk: Float[Tensor, "n s width"]) -> Float[Tensor, "n w"]:
        return pool_image(self._visual.attnpool, trunk)

    def pool_positions(self, trunk: Float[Tensor, "n s width"]) -> Float[Tensor, "n s w"]:
        return pool_positions(self._visual.attnpool, trunk)

    def project(self, pooled: Float[Tensor, "... w"]) -> Float[Tensor, "... d"]:
        return cast(Tensor, self._visual.attnpool.c_proj(pooled))


class _VisionTransformer(Tower):
    """open_clip's own vision transformers: OpenAI's, CLIPA's, CoCa's and many more."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        weight = visual.proj.detach()
        self.projection = Projection(weight, torch.zeros_like(weight[0]))

    def trunk(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1+s width"]:
        return cast(Tensor, self._visual.transformer(self._visual._embeds(images)))

    def pool(self, trunk: Float[Tensor, "n 1+s width"]) -> Float[Tensor, "n w"]:
        pooled, _ = self._visual._pool(trunk)
        return cast(Tensor, pooled)

    def pool_positions(self, trunk: Float[Tensor, "n 1+s width"]) -> Float[Tensor, "n s w"]:
        if self._visual.pool_type not in ("tok", "avg"):
            raise NoPositionsError("it pools its positions twice, or not at all")
        positions = trunk[:, 1:]
        if (pool := self._visual.attn_pool) is not None:
            alone = pool.ln_k(positions).flatten(end_dim=1).unsqueeze(1)
            query = pool.ln_q(pool.query[:1]).expand(alone.shape[0], 1, -1)  # Any gives the same.
            pooled, _ = pool.attn(query, alone, alone, need_weights=False)
            positions = pooled.view(*positions.shape[:2], -1)
        return cast(Tensor, self._visual.ln_post(positions))

    def project(self, pooled: Float[Tensor, "... w"]) -> Float[Tensor, "... d"]:
        return cast(Tensor, pooled @ self._visual.proj)


class _Timm(Tower):
    """Towers of timm, by the steps that all of them have: `forward_features`, `forward_head`."""

    def __init__(self, visual: Any) -> None:
        from timm.layers.mlp import Mlp

        self._visual = visual
        layers = [visual.trunk.get_classifier(), *visual.head]
        if isinstance(layers[-1], Mlp):
            last = layers.pop()
            layers += [last.fc1, last.act, last.norm, last.fc2]
        *self._head, self._last = layers
        self.projection = _of_linear(self._last) if isinstance(self._last, nn.Linear) else None

    def trunk(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n ..."]:
        return cast(Tensor, self._visual.trunk.forward_features(images))

    def pool(self, trunk: Float[Tensor, "n ..."]) -> Float[Tensor, "n w"]:
        pooled: Tensor = self._visual.trunk.forward_head(trunk, pre_logits=True)
        for layer in self._head:
            pooled = layer(pooled)
        return pooled

    def pool_positions(self, trunk: Float[Tensor, "n ..."]) -> Float[Tensor, "n s w"]:
        pooled = self.pool(self._alone(trunk))
        return pooled.view(trunk.shape[0], -1, pooled.shape[-1])  # `len` fixes it in a graph

    def _alone(self, trunk: Float[Tensor, "n ..."]) -> Float[Tensor, "n*s ..."]:
        """Make of each position what the trunk would give if there were no other."""
        if hasattr(self._visual.head, "pool"):
            raise NoPositionsError("it pools a map of one size only")
        match trunk.ndim, getattr(self._visual.trunk, "output_fmt", "NCHW"):
            case 3, _:
                # It takes the places of class and register tokens too, so that any of the ways of
                # pooling, by a token, a mean or attention, sees nothing else.
                prefix = getattr(self._visual.trunk, "num_prefix_tokens", 0)
                tokens = trunk[:, prefix:].flatten(end_dim=1).unsqueeze(1)
                return tokens.expand(-1, 1 + prefix, -1)
            case 4, "NHWC":
                return trunk.flatten(end_dim=2)[:, None, None]
            case 4, _:
                return trunk.flatten(start_dim=2).mT.flatten(end_dim=1)[:, :, None, None]
        raise NoPositionsError("its trunk gives one feature an image")

    def project(self, pooled: Float[Tensor, "... w"]) -> Float[Tensor, "... d"]:
        return cast(Tensor, self._last(pooled))


def _of_linear(layer: nn.Linear) -> Projection:
    weight = layer.weight.detach().T
    return Projection(
        weight, torch.zeros_like(weight[0]) if layer.bias is None else layer.bias.detach()
    )
