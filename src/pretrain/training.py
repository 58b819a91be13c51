"""Contrastive pretraining of `tiny`, a CLIP of 2.8 million parameters, on one CPU.

A CLIP loss (Radford et al., 2021) with one change: within a batch, every caption that is true of
an image is a positive, since many images share a class. An auxiliary linear classifier of the
image features speeds training up several times over and is dropped afterwards.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from src.data.glyphs import PRETRAINING_FONTS, render
from src.files import replacing, write_json
from src.pretrain.augment import IMAGE_SIZE, augment, thin
from src.pretrain.captions import ATTRIBUTES, CLASSES, captions

WEIGHTS = "model.safetensors"
CONTEXT_LENGTH = 32
CONFIG: dict[str, dict[str, Any]] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            "width": 96,
            "head_width": 32,
            "layers": 3,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 48,
            "heads": 2,
            "layers": 2,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}
"""The content of open_clip_config.json; the resize is open_clip's default, bicubic in PIL."""

_BATCH = 128
_CANVAS = 48
_LEARNING_RATE = 3e-3
_WARM_UP = 225
_RAMP = 1 / 3


class Glyphs(NamedTuple):
    """The clean glyphs: ink 0 to 1, the label of each, and which attributes are true of it."""

    ink: Float[Tensor, "g s s"]
    labels: Int64[Tensor, " g"]
    attributes: Bool[Tensor, "g a"]


class Captions(NamedTuple):
    """The tokens of every caption and, by label and attribute, where its captions lie."""

    tokens: Int64[Tensor, "m length"]
    starts: Int64[Tensor, "c a"]
    counts: Int64[Tensor, "c a"]


def read_glyphs() -> Glyphs:
    """Render each character of each pretraining font twice: as it is, and as a pen stroke."""
    characters = [case for name in CLASSES for case in sorted({name, name.upper()})]
    faces = [(font, character) for font in PRETRAINING_FONTS for character in characters]
    printed = torch.from_numpy(
        np.stack([render(font, character, _CANVAS) for font, character in faces])
    ).float()
    printed /= 255
    strokes = functional.max_pool2d(thin(printed > 0.5).float(), 3, stride=1, padding=1)
    truths = {
        "": [True] * len(faces),
        "bold": [font.bold for font, _ in faces],
        "italic": [font.italic for font, _ in faces],
        "handwritten": [False] * len(faces),
        "capital": [character.isupper() for _, character in faces],
        "small": [character.islower() for _, character in faces],
    }
    attributes = torch.tensor([truths[name] for name in ATTRIBUTES]).T
    of_strokes = attributes.clone()
    of_strokes[:, ATTRIBUTES.index("bold")] = False
    of_strokes[:, ATTRIBUTES.index("handwritten")] = True
    return Glyphs(
        ink=torch.cat([printed, strokes]),
        labels=torch.tensor([CLASSES.index(character.lower()) for _, character in faces] * 2),
        attributes=torch.cat([attributes, of_strokes]),
    )


def read_captions() -> Captions:
    """Tokenise every caption."""
    everything = captions()
    cells = torch.tensor(
        [caption.label * len(ATTRIBUTES) + caption.attribute for caption in everything]
    )
    counts = cells.bincount(minlength=len(CLASSES) * len(ATTRIBUTES))
    shape = (len(CLASSES), len(ATTRIBUTES))
    return Captions(
        tokens=SimpleTokenizer(context_length=CONTEXT_LENGTH)([text for text, _, _ in everything]),
        starts=(counts.cumsum(0) - counts).reshape(shape),
        counts=counts.reshape(shape),
    )


def caption_loss(logits: Float[Tensor, "n m"], truth: Bool[Tensor, "n m"]) -> Float[Tensor, ""]:
    """Symmetric cross-entropy between images (rows) and captions (columns).

    Args:
        logits: scaled similarities.
        truth: whether a caption is true of an image; each row and column has a true entry. The
            targets are its rows, and its columns, normalised to sum 1.
    """
    target = truth.float()
    by_image = functional.cross_entropy(logits, target / target.sum(1, keepdim=True))
    by_caption = functional.cross_entropy(logits.T, (target / target.sum(0)).T)
    return (by_image + by_caption) / 2


def train(
    steps: int, seed: int, report: Callable[[int, float], None] = lambda step, loss: None
) -> CLIP:
    """Pretrain from scratch; equal arguments give equal weights on one machine.

    Args:
        steps: optimiser steps, of 128 images each; the learning rate falls to zero over them.
        seed: decides the initial weights, the glyphs, their captions and distortions.
        report: called after every step with its number, from 1, and its loss.

    Returns:
        The model in evaluation mode. The rows of its token table that no caption uses are zero.
    """
    glyphs, texts = read_glyphs(), read_captions()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**CONFIG["model_cfg"])
        _forget_unused(model.token_embedding, texts.tokens)
        classifier = nn.Linear(model.visual.output_dim, len(CLASSES))
        parameters = [*model.parameters(), *classifier.parameters()]
        optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            _LEARNING_RATE,
            total_steps=steps,
            pct_start=min(0.3, _WARM_UP / steps),
            cycle_momentum=False,
        )
        weights = _balanced(glyphs.labels)
        for step in range(1, steps + 1):
            rows = torch.multinomial(weights, _BATCH, replacement=True)
            labels, attributes = glyphs.labels[rows], glyphs.attributes[rows]
            stated, tokens = _draw_captions(texts, labels, attributes)
            images = 2 * augment(glyphs.ink[rows], min(1.0, step / (_RAMP * steps))) - 1
            features = model.encode_image(images)
            similarity = functional.normalize(features) @ model.encode_text(tokens, True).T
            truth = (labels[:, None] == labels) & attributes[:, stated]
            loss = caption_loss(model.logit_scale.exp() * similarity, truth)
            loss = loss + functional.cross_entropy(classifier(features), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1)
            optimizer.step()
            schedule.step()
            report(step, loss.item())
    return model.eval()


def save(model: CLIP, folder: Path) -> None:
    """Write a folder that open_clip reads as `local-dir:`: the config, and float16 weights."""
    write_json(folder / "open_clip_config.json", CONFIG)
    with replacing(folder / WEIGHTS) as temporary:
        halves = {name: value.half().contiguous() for name, value in model.state_dict().items()}
        save_file(halves, temporary)


@torch.no_grad()
def _forget_unused(table: nn.Embedding, tokens: Int64[Tensor, "m length"]) -> None:
    """Set the rows of tokens in no caption to zero, where AdamW without a gradient leaves them.

    Padding, token 0, counts as unused: it follows the end of the text, which the causal mask
    and the pooling at the end token never read.
    """
    unused = torch.ones(len(table.weight), dtype=torch.bool)
    unused[torch.unique(tokens)] = False
    unused[0] = True
    table.weight[unused] = 0


def _balanced(labels: Int64[Tensor, " g"]) -> Float[Tensor, " g"]:
    """Weight glyphs so that half of a batch is digits, half letters, each class equal."""
    digits = sum(name.isdigit() for name in CLASSES)
    groups = torch.where(labels < digits, digits, len(CLASSES) - digits)
    return 1 / (groups * labels.bincount()[labels])


def _draw_captions(
    texts: Captions, labels: Int64[Tensor, " n"], attributes: Bool[Tensor, "n a"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, "n length"]]:
    """Draw a true caption of each image: the index of its attribute, and its tokens."""
    chances = attributes.float()
    chances[:, 0] = 2
    stated = torch.multinomial(chances, 1).squeeze(1)
    within = torch.rand(len(labels)) * texts.counts[labels, stated]
    return stated, texts.tokens[texts.starts[labels, stated] + within.long()]
