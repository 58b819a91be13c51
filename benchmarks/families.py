"""Encoding by one backbone of each family of open_clip's image towers.

The predict step of an extraction, in Lightning's loop and in float32, beside `encode_image` on the
same batches in memory. The largest difference of the global features is told as a share of the
largest feature. Weights are random; text towers are small, for they are not used.
"""

import logging
import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import open_clip
import torch
from open_clip import factory
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import Compose

from benchmarks.extraction import trainer
from benchmarks.side_by_side import Figure, Turns, take_turns
from src.clip.model import FrozenClip
from src.features.extract import Encoder

BACKBONES = {
    "OpenAI's ResNet": "RN50-quickgelu",
    "OpenAI's ViT": "ViT-B-32-quickgelu",
    "CoCa": "coca_ViT-B-32",
    "SigLIP": "ViT-B-16-SigLIP2",
    "PE-Core": "PE-Core-B-16",
    "EVA": "EVA02-B-16",
    "MobileCLIP's ViT": "MobileCLIP2-B",
    "MobileCLIP's FastViT": "MobileCLIP2-S0",
    "ViTamin": "ViTamin-S",
    "ConvNeXt": "convnext_base",
    "Swin": "swin_base_patch4_window7_224",
}
NEVER_SLOWER = 0.95
"""Of open_clip's rate: where the arithmetic is the same, the loops' ratio is 1 but for noise."""

FURTHEST = 1e-4
IMAGES, BATCH, ROUNDS = 8, 4, 3
TEXT = {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}


def figures() -> Iterator[Figure]:
    """Measure one family after the other."""
    _quiet()
    for family, architecture in BACKBONES.items():
        turns, difference = encoding(load(architecture))
        ours, plain = (IMAGES / turns.median(way) for way in ("ours", "plain"))
        yield Figure(
            f"encoding, {family} ({architecture}), float32", f"{ours:.1f} images/s",
            f"{plain:.1f} images/s", turns.ratio("plain"), NEVER_SLOWER,
        )  # fmt: skip
        yield Figure(
            f"largest difference of features, {family}", f"{difference:.1e}", "", difference,
            FURTHEST, at_least=False,
        )  # fmt: skip


def load(architecture: str) -> FrozenClip:
    """Build an architecture with random weights and a small text tower."""
    config: dict[str, Any] = open_clip.get_model_config(architecture)
    config |= {name: TEXT for name in ("text_cfg", "multimodal_cfg") if name in config}
    factory._MODEL_CONFIGS[architecture] = config
    torch.manual_seed(0)
    clip = FrozenClip(open_clip.create_model(architecture), None, Compose([]), architecture)
    for module in clip.modules():
        if isinstance(module, nn.BatchNorm2d):  # else there is nothing to fold but ones and zeros
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return clip


def encoding(clip: FrozenClip) -> tuple[Turns, float]:
    """Encode what is in memory in turns, and compare the features of what was made fast."""
    images = torch.split(torch.randn(IMAGES, 3, *clip.image_size), BATCH)
    batches: Any = [{"shard": 0, "images": one, "label": torch.zeros(len(one))} for one in images]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)
    runner, encoder = trainer(precision="32-true"), Encoder(deepcopy(clip), ["global"])

    def ours() -> None:
        runner.predict(encoder, loader, return_predictions=False)

    def plain() -> Tensor:
        with torch.no_grad():
            return torch.cat([clip.model.encode_image(one, normalize=False) for one in images])

    turns = take_turns(rounds=ROUNDS, ours=ours, plain=plain)
    expected = turns.results["plain"]
    found = torch.cat([encoder.clip.encode_image(one) for one in images])
    return turns, float((found - expected).abs().max() / expected.abs().max())


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers")
