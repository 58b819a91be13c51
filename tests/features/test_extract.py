import pytest
import torch
from lightning import Trainer
from open_clip import CLIP
from torch import nn
from torch.nn.functional import cosine_similarity
from torch.utils.data import DataLoader
from torchvision.transforms import Compose

from src.clip.model import FrozenClip
from src.features.extract import Encoder

VISION = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
TEXT = {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}


@pytest.mark.parametrize(("precision", "least"), [("32-true", 0.99999), ("bf16-true", 0.999)])
@pytest.mark.parametrize("names", [["global"], ["global", "spatial"]])
def test_a_resnet_laid_out_for_speed_gives_the_same_features(precision, least, names):
    torch.manual_seed(0)
    clip = FrozenClip(CLIP(24, VISION, TEXT), None, Compose([]), "small")
    images = torch.randn(6, 3, 64, 64)
    expected = dict(zip(("global", "spatial"), clip.encode_image_spatial(images), strict=True))
    loader = DataLoader(
        [{"shard": 0, "images": part, "label": torch.zeros(3)} for part in images.split(3)],
        batch_size=None,
    )
    trainer = Trainer(
        accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False,
        enable_progress_bar=False,
    )  # fmt: skip
    batches = trainer.predict(Encoder(clip, names), loader)
    tensors = [batch["tensors"] for batch in batches]
    assert list(tensors[0]) == [*names, "label"]
    for name in tensors[0].keys() - {"label"}:
        found = torch.cat([each[name] for each in tensors]).float()
        assert cosine_similarity(found, expected[name], dim=-1).min() > least
    visual = clip.model.visual
    assert not any(isinstance(module, nn.BatchNorm2d) for module in visual.modules())
    assert visual.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
