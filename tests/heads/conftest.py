"""Real CLIP ViT-B/32 features of Caltech101, for the classes whose names are LVIS names."""

import json

import numpy as np
import pytest
import torch

from src.heads.support import Support
from tests.caltech101 import CLASSES
from tests.shared import SHARED

CALTECH101 = SHARED / "clip_features/caltech101_vit_b32"


def load(name):
    return torch.load(CALTECH101 / name, weights_only=True, map_location="cpu")


@pytest.fixture(scope="session")
def lvis():
    """Return the raw text features of 28 LVIS classes, and readers of splits and keys."""
    folder = SHARED / "clip_features/text_vit_b32"
    names = json.loads((folder / "lvis_names.json").read_text())
    rows = {name.replace("_", " "): row for row, name in enumerate(names)}
    spaced = [name.replace("_", " ") for name in CLASSES]
    kept = torch.tensor([label for label, name in enumerate(spaced) if name in rows])
    text = torch.from_numpy(np.load(folder / "lvis_names.npy")).float()

    def restrict(features, label):
        known = torch.isin(label, kept)
        return features[known].float(), torch.searchsorted(kept, label[known])

    def split(name):
        return restrict(load(f"{name}_f.pt"), load(f"{name}_l.pt").long())

    def support(shots):
        keys, values = load(f"keys_{shots}shots.pt"), load(f"values_{shots}shots.pt")
        features, label = restrict(keys.T, values.argmax(dim=1))
        return Support({"global": features[None]}, label)

    return text[[rows[spaced[label]] for label in kept]], split, support


@pytest.fixture(scope="session")
def balanced(lvis):
    """Return nine test images of each of the 28 classes, features and labels.

    The reference figures of a balanced subset are those of these images: zero-shot CLIP's and those
    of three transductive methods agree. (Of the first nine of each class in the split's order, as
    they were described, zero-shot CLIP has 99.21.)
    """
    text, split, _ = lvis
    image, label = split("test")
    generator = torch.Generator().manual_seed(0)
    of_classes = [(label == one).nonzero().squeeze(1) for one in range(len(text))]
    drawn = [rows[torch.randperm(len(rows), generator=generator)[:9]] for rows in of_classes]
    kept = torch.cat(drawn)
    return image[kept], label[kept]
