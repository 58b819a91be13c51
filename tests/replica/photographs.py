"""What the replicas' images show, and how many there are."""

from pathlib import Path

import numpy as np
from PIL import Image

from src.data.glyphs import PRETRAINING_FONTS, render

SPLITS = ("train", "val", "test")


def items(per_class: int, classes: int) -> list[tuple[str, int, int]]:
    """List the images of all splits: (split, label, number within the class)."""
    numbers = range(3 * per_class)
    return [(SPLITS[number % 3], label, number) for label in range(classes) for number in numbers]


def photograph(path: Path, letter: str, seed: int, size: int) -> None:
    """Write a noisy photograph of a letter, `size` pixels high and a little wider."""
    generator = np.random.default_rng(seed)
    font = PRETRAINING_FONTS[generator.integers(len(PRETRAINING_FONTS))]
    ink = np.pad(render(font, letter, size), ((0, 0), (8, 8)))[:, :, None] * 0.8
    pixels = (ink + generator.integers(0, 51, (size, size + 16, 3))).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(path: Path, *lines: str) -> None:
    """Write a text file that lies beside the images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
