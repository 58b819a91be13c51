"""Small replicas of the benchmarks' folders, in CoOp's layout."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

TINY = ("backbone=tiny", 'dataset.templates=["a photo of the letter {}."]')
"""`tiny` reads letters only, so the replica's classes are letters."""


def dtd(data: Path, per_class: int = 6, size: int = 48, classes: str = "abc") -> Path:
    """Make `data/dtd`: photographs of noise and their split file; returns the folder."""
    generator = np.random.default_rng(0)
    root = data / "dtd"
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(classes):
        folder = root / "images" / name
        folder.mkdir(parents=True)
        for number in range(3 * per_class):
            key = f"{name}/{name}_{number:04d}.jpg"
            pixels = generator.integers(0, 256, (size, size + 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / key)
            split[("train", "val", "test")[number % 3]].append([key, label, name])
    (root / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    return root
