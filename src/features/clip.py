"""The frozen CLIP: global and spatial image features, text features, and what its weights are.

open_clip is imported only where a model is loaded: a run whose features are stored needs the
identity of the weights (`weights_id`) and nothing else of this module.
"""

import hashlib
import logging
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention
from torchvision.transforms import Compose

from src.errors import UserError

log = logging.getLogger(__name__)

LOCAL_DIR = "local-dir:"
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAMES = ("open_clip_model.safetensors", "model.safetensors")  # open_clip's preference
QUICK_GELU = "-quickgelu"
RANDOM_SEED = 0
PROMPTS_PER_PASS = 256
SAME_TEXT = 1 - 1e-6
"""Cosine similarity from which two classes cannot be told apart in float32."""


def make_prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Put every class name, its underscores read as spaces, into every template.

    Raises:
        UserError: there is no template, or one does not hold exactly one `{}`.
    """
    if not templates:
        raise UserError("there is no prompt template: give at least one, as 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(
                f"the prompt template {template!r} must hold {{}} exactly once: it is where the "
                "class name goes."
            )
    return [
        [template.replace("{}", name.replace("_", " ")) for template in templates]
        for name in class_names
    ]


def weights_id(architecture: str, pretrained: str | None) -> str:
    """Identify weights without loading them, and without importing open_clip.

    Equal ids mean equal features: a file is known by its content, wherever it lies; a tag by its
    name, which open_clip keeps for the same weights; random weights by the version of torch, whose
    initialisation decides them. A tag is not checked here.

    Raises:
        UserError: a `local-dir:` lacks its configuration or weights, or `pretrained` is set too.
    """
    checkpoint = _checkpoint(architecture, pretrained)
    if checkpoint is None:
        return f"{architecture}/{pretrained or f'random-{torch.__version__}'}"
    if architecture.startswith(LOCAL_DIR):
        return f"sha256:{_sha256(checkpoint.parent / CONFIG_NAME)}/sha256:{_sha256(checkpoint)}"
    return f"{architecture}/sha256:{_sha256(checkpoint)}"


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
        tokenizer: Any,  # noqa: ANN401 (open_clip's tokenizers share no type)
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
        """Build a model in float32 and load its weights, downloading those of a tag.

        Nothing is unpickled but tensors. The one exception proves its origin: OpenAI's own
        TorchScript archive (`RN50.pt` and so on), accepted by its SHA-256.

        Args:
            architecture: a name known to open_clip, or `local-dir:` and a folder with
                `open_clip_config.json` and `open_clip_model.safetensors` (or `model.safetensors`).
            pretrained: a tag known to open_clip, a checkpoint file (preprocessed as OpenAI's
                models are; a `local-dir:` states its own preprocessing), or None: the weights in
                the `local-dir:`, otherwise random weights, always the same.

        Raises:
            UserError: the architecture or the tag is unknown, the tag's weights were trained with
                the other GELU or cannot be downloaded, a file does not hold weights of this
                architecture, or the text tower needs a package that is not installed.
        """
        from open_clip.transform import PreprocessCfg, image_transform_v2

        checkpoint = _checkpoint(architecture, pretrained)
        if not architecture.startswith(LOCAL_DIR):
            _check_architecture(architecture)
        openai_archive = checkpoint is not None and _is_openai_archive(architecture, checkpoint)
        tag = "openai" if openai_archive else pretrained if checkpoint is None else None
        published = {} if tag is None else _tag_config(architecture, tag)
        with _quiet():
            model, tokenizer = _build(architecture, preprocessing=published)
        if published and checkpoint is None:
            checkpoint = _download(architecture, published)
        if checkpoint is None:
            log.warning("%s has random weights: its accuracy is that of chance", architecture)
        else:
            _load_weights(model, architecture, checkpoint, weights_only=not openai_archive)
        preprocess = image_transform_v2(
            PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
        )
        return cls(model, tokenizer, preprocess, architecture)

    @torch.no_grad()
    def encode_image(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Compute global features in the joint space, not normalised.

        Works for every architecture.
        """
        features: Tensor = self.model.encode_image(images, normalize=False)
        return features

    @torch.no_grad()
    def encode_image_spatial(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n s d"]]:
        """Compute global and spatial features in the joint space by one forward pass.

        A position's spatial feature takes the way of the global one, as in CALIP (Guo et al.,
        2023): ResNets run the attention pooling with every position as a query, vision transformers
        send every patch token through the last normalisation and the projection.

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
            trunk = visual.forward_intermediates(images, indices=1, intermediates_only=True)
            tokens = _attention_pool(visual.attnpool, trunk["image_intermediates"][0])
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
    def encode_text(self, prompts: Sequence[Sequence[str]]) -> Float[Tensor, "c d"]:
        """Compute one text feature per class: encode, normalise, average the prompts, normalise.

        The ensembling of Radford et al. (2021), section 3.1.4.

        Args:
            prompts: for every class, one prompt or more.

        Returns:
            Float32, of length 1.

        Raises:
            UserError: a prompt is longer than the model's context or has a word that the model
                never saw in training, or two classes with different prompts get the same feature.
        """
        flat = [prompt for of_class in prompts for prompt in of_class]
        self._check_prompts(flat)
        chunks = [
            self._encode_tokens(self.tokenizer(flat[start : start + PROMPTS_PER_PASS]))
            for start in range(0, len(flat), PROMPTS_PER_PASS)
        ]
        each = normalize(torch.cat(chunks).float(), dim=-1)
        by_class = torch.split(each, [len(of_class) for of_class in prompts])
        features = normalize(torch.stack([group.mean(dim=0) for group in by_class]), dim=-1)
        self._check_distinct(features, prompts)
        return features

    def _encode_tokens(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n d"]:
        model = self.model
        tokens = tokens.to(model.logit_scale.device)
        if getattr(model, "text_pool_type", None) != "argmax" or model.attn_mask is None:
            return model.encode_text(tokens)  # type: ignore[no-any-return]
        # A causal tower that is read at the end of the text never sees the padding behind it:
        # without the padding it gives the same features, for prompts of 10 tokens 9 times faster.
        length = int(tokens.argmax(dim=-1).max()) + 1
        shortened = {
            "positional_embedding": model.positional_embedding[:length],
            "attn_mask": model.attn_mask[:length, :length],
        }
        inputs = {"text": tokens[:, :length]}
        features: Tensor = torch.func.functional_call(model, shortened, kwargs=inputs)[1]
        return features

    def _check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse what open_clip's own tokenizer would cut off or the model cannot read."""
        from open_clip import SimpleTokenizer

        if not isinstance(self.tokenizer, SimpleTokenizer):
            return
        embedding = getattr(self.model, "text", self.model).token_embedding.weight
        unseen = set((~embedding.any(dim=1)).nonzero().flatten().tolist())
        unknown: dict[str, str] = {}
        for prompt in prompts:
            tokens = self.tokenizer.encode(prompt)
            length = len(tokens) + 2  # the start and the end of the text
            if length > self.tokenizer.context_length:
                raise UserError(
                    f"the prompt {prompt!r} has {length} tokens and {self.architecture} reads "
                    f"{self.tokenizer.context_length}: shorten the class name or the template."
                )
            if not unseen.isdisjoint(tokens):
                for word in self.tokenizer.pat.findall(self.tokenizer.clean_fn(prompt)):
                    if not unseen.isdisjoint(self.tokenizer.encode(word)):
                        unknown.setdefault(word, prompt)
        if unknown:
            raise UserError(
                f"{self.architecture} does not know the word(s) {_listing(unknown)} (as in "
                f"{_listing(map(repr, dict.fromkeys(unknown.values())))}): rename the classes, "
                "change the template, or choose another backbone."
            )

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
                f"{self.architecture} cannot tell apart {_listing(same)}: their text features are "
                "equal. Rename or merge the classes."
            )


def _checkpoint(architecture: str, pretrained: str | None) -> Path | None:
    """Find the weights that the configuration names as a file, if it does."""
    if not architecture.startswith(LOCAL_DIR):
        return Path(pretrained) if pretrained and Path(pretrained).is_file() else None
    if pretrained is not None:
        raise UserError(
            f"backbone.pretrained={pretrained} has no effect: {architecture} always loads the "
            "weights in its folder. Set backbone.pretrained=null."
        )
    folder = Path(architecture.removeprefix(LOCAL_DIR))
    weights = [folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()]
    if not weights or not (folder / CONFIG_NAME).is_file():
        raise UserError(
            f"the folder {folder} must hold {CONFIG_NAME} and {' or '.join(WEIGHTS_NAMES)}: "
            "correct backbone.architecture, or put them there."
        )
    return weights[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_architecture(architecture: str) -> None:
    import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        near = get_close_matches(architecture, known, n=3, cutoff=0.4)
        raise UserError(
            f"open_clip knows no backbone.architecture={architecture}. "
            + (f"Near it: {', '.join(near)}. " if near else "")
            + f"A folder of your own is {LOCAL_DIR}/path/to/folder."
        )


def _is_openai_archive(architecture: str, checkpoint: Path) -> bool:
    """Tell whether a file is, byte by byte, the one that OpenAI published for an architecture."""
    import open_clip

    url = open_clip.get_pretrained_url(architecture, "openai")  # holds the file's SHA-256
    return checkpoint.suffix == ".pt" and _sha256(checkpoint) in url


def _tag_config(architecture: str, tag: str) -> dict[str, Any]:
    """Look up where a tag's weights are, how they want images, and that their GELU is ours.

    open_clip only warns when the activation of the architecture is not the one that the weights
    were trained with, and then computes wrong features.
    """
    import open_clip

    twin = (
        architecture.removesuffix(QUICK_GELU)
        if architecture.endswith(QUICK_GELU)
        else architecture + QUICK_GELU
    )
    config: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag)
    quick_gelu = open_clip.get_model_config(architecture).get("quick_gelu", False)
    trained_as_twin = not config or config.get("quick_gelu", False) != quick_gelu
    if trained_as_twin and open_clip.is_pretrained_cfg(twin, tag):
        raise UserError(
            f"the weights {tag} were trained with {'GELU' if quick_gelu else 'QuickGELU'}, "
            f"{architecture} computes {'QuickGELU' if quick_gelu else 'GELU'}: "
            f"use backbone.architecture={twin}."
        )
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UserError(
            f"backbone.pretrained={tag} is neither a file nor a tag of {architecture}, "
            f"which has {', '.join(tags) or 'none'}."
        )
    return config


def _download(architecture: str, published: dict[str, Any]) -> Path:
    import open_clip

    repository, _, name = published["hf_hub"].rpartition("/")
    source = f"https://huggingface.co/{repository}/resolve/main/{name or WEIGHTS_NAMES[0]}"
    log.info("fetching the weights of %s from %s", architecture, source)
    try:
        with _quiet():
            return Path(open_clip.download_pretrained(published))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download the weights of {architecture}. Fetch {source} where there is a "
            f"network, and set backbone.pretrained=/path/to/that/file. ({_brief(error)})"
        ) from error


def _build(
    architecture: str, preprocessing: dict[str, Any]
) -> tuple[Any, Any]:  # a model and a tokenizer of open_clip, which has no types
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(architecture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            model = open_clip.create_model(
                architecture,
                load_weights=False,
                pretrained_text=False,
                force_preprocess_cfg=preprocessing,
            )
    except (ImportError, OSError) as error:
        raise UserError(
            f"the text tower of {architecture} needs the package transformers (`pip install "
            f"transformers`) and a network, the first time. ({_brief(error)})"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        if not architecture.startswith(LOCAL_DIR):
            raise
        folder = architecture.removeprefix(LOCAL_DIR)
        raise UserError(
            f"{folder}/{CONFIG_NAME} does not describe a model of open_clip: {_brief(error)}"
        ) from error
    return model, tokenizer


def _load_weights(
    model: nn.Module, architecture: str, checkpoint: Path, *, weights_only: bool
) -> None:
    import open_clip

    try:
        with _quiet():
            open_clip.load_checkpoint(model, str(checkpoint), weights_only=weights_only)
    except Exception as error:  # whatever the user's file makes torch or open_clip stumble over
        raise UserError(
            f"{checkpoint} does not hold weights of {architecture}: {_brief(error)}. Give the "
            "architecture that it was made for, or an intact copy of the checkpoint."
        ) from error


def _attention_pool(
    pool: Any,  # noqa: ANN401 (open_clip's AttentionPool2d)
    trunk: Float[Tensor, "n width h w"],
) -> Float[Tensor, "n 1+h*w d"]:
    """OpenAI's attention pooling with all positions as queries; the mean's token comes first."""
    tokens = trunk.flatten(start_dim=2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    tokens = tokens + pool.positional_embedding.to(tokens.dtype)
    query, key, value = (
        project(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for project in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    attended = scaled_dot_product_attention(query, key, value)
    pooled: Tensor = pool.c_proj(attended.transpose(1, 2).flatten(start_dim=2))
    return pooled


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what open_clip and torch log and warn about: what matters of it, we say ourselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _brief(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", width=200, placeholder=" ...")


def _listing(items: Iterator[str] | Sequence[str] | dict[str, str], most: int = 5) -> str:
    every = list(items)
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest
