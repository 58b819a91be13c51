"""The frozen CLIP: global and spatial image features, and text features."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention
from torchvision.transforms import Compose

from src.clip.crops import AnyAugmentation, CloudAugmentation, Crop, CropTransform
from src.clip.weights import load_model
from src.data.text_files import at_most
from src.errors import UserError

PROMPTS_PER_PASS = 256
SAME_TEXT = 1 - 1e-6
"""Cosine similarity from which two classes cannot be told apart in float32."""


class TextFeatures(NamedTuple):
    """The text features of some classes, float32 `[c, d]`.

    Attributes:
        text: the ensemble of Radford et al. (2021), section 3.1.4: each prompt's feature is
            normalised, the mean over a class's prompts is normalised again. Of length 1.
        raw_text: the mean of the prompts' features as CLIP gives them. TaskRes and CLAP start from
            it, and its length matters to them: about 10 for OpenAI's ViT-B/32.
    """

    text: Float[Tensor, "c d"]
    raw_text: Float[Tensor, "c d"]


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
        self._check_prompts(flat)
        chunks = [
            self._encode_tokens(self.tokenizer(flat[start : start + PROMPTS_PER_PASS]))
            for start in range(0, len(flat), PROMPTS_PER_PASS)
        ]
        return torch.cat(chunks).float()

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[Sequence[str]]) -> TextFeatures:
        """Compute the text features of each class from its prompts.

        Args:
            prompts: for every class, one prompt or more.

        Raises:
            UserError: a prompt is longer than the model's context or has a word that the model
                never saw in training, or two classes with different prompts get the same feature.
        """
        raw = self.encode_prompts(prompts)
        sizes = [len(of_class) for of_class in prompts]
        features = normalize(_means(normalize(raw, dim=-1), sizes), dim=-1)
        self._check_distinct(features, prompts)
        return TextFeatures(features, _means(raw, sizes))

    def _encode_tokens(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n d"]:
        model = self.model
        tokens = tokens.to(model.logit_scale.device)
        if getattr(model, "text_pool_type", None) != "argmax" or model.attn_mask is None:
            return model.encode_text(tokens)
        # A causal tower that is read at the end of the text never sees the padding behind it:
        # without the padding it gives the same features, for prompts of 10 tokens 9 times faster.
        length = int(tokens.argmax(dim=-1).max()) + 1
        shortened = {
            "model.positional_embedding": model.positional_embedding[:length],
            "model.attn_mask": model.attn_mask[:length, :length],
        }
        features: Tensor = torch.func.functional_call(
            _TextEncoder(model), shortened, tokens[:, :length]
        )
        return features

    def _check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse what open_clip's own tokenizer would cut off or the model cannot read."""
        from open_clip import SimpleTokenizer

        if not isinstance(self.tokenizer, SimpleTokenizer):
            return
        for prompt in prompts:
            length = len(self.tokenizer.encode(prompt)) + 2  # the start and the end of the text
            if length > self.tokenizer.context_length:
                raise UserError(
                    f"the prompt {prompt!r} has {length} tokens and {self.architecture} reads "
                    f"{self.tokenizer.context_length}: shorten the prompt or the class name."
                )
        embedding = getattr(self.model, "text", self.model).token_embedding
        check_words(prompts, self.tokenizer, embedding, self.architecture)

    def _check_distinct(
        self, features: Float[Tensor, "c d"], prompts: Sequence[Sequence[str]]
    ) -> None:
        pairs = ((features @ features.T).triu(diagonal=1) > SAME_TEXT).nonzero().tolist()
        same = [
            f"{prompts[i][0]!r} and {prompts[j][0]!r}"
            for i, j in pairs
            if list(prompts[i]) != list(prompts[j])
        ]
        if same:
            raise UserError(
                f"{self.architecture} cannot tell apart {at_most(same)}: their text features are "
                "equal. Rename or merge the classes."
            )


class _TextEncoder(nn.Module):
    """Encodes text, not normalised, as a call of a module, which `functional_call` needs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n d"]:
        features: Tensor = self.model.encode_text(tokens)
        return features


def _means(rows: Float[Tensor, "p d"], sizes: Sequence[int]) -> Float[Tensor, "c d"]:
    """Average consecutive groups of rows, whose sizes are given in order."""
    return torch.stack([group.mean(dim=0) for group in torch.split(rows, list(sizes))])


def check_words(
    prompts: Sequence[str], tokenizer: Any, embedding: nn.Embedding, architecture: str
) -> None:
    """Refuse words that a model never saw in training: their rows of the token table are zero.

    Args:
        prompts: the prompts to check, of any length.
        tokenizer: open_clip's SimpleTokenizer.
        embedding: the model's token table.
        architecture: the model's name, for the message.

    Raises:
        UserError: some word is unknown; up to five of them and their prompts are named.
    """
    unseen = set((~embedding.weight.any(dim=1)).nonzero().flatten().tolist())
    unknown: dict[str, str] = {}
    for prompt in prompts:
        if not unseen.isdisjoint(tokenizer.encode(prompt)):
            for word in tokenizer.pat.findall(tokenizer.clean_fn(prompt)):
                if not unseen.isdisjoint(tokenizer.encode(word)):
                    unknown.setdefault(word, prompt)
    if unknown:
        raise UserError(
            f"{architecture} does not know the word(s) {at_most(unknown)} (as in "
            f"{at_most(map(repr, dict.fromkeys(unknown.values())))}): rename the classes, "
            "change the template, or choose another backbone."
        )


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
