"""The embedded dataset `letters`: the 26 letters in fonts that `tiny` was not pretrained on.

Rendered at every start, from a fixed seed: upper and lower case, four faces, and random size,
slant, position, thickness, blur, polarity and noise.
"""

import string

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from src.data.glyphs import HELD_OUT_FONTS, render
from src.data.images import ImageArrays, Item

_SEED = 0
_PER_CLASS = {"train": 20, "val": 8, "test": 30}
_SIZE = 32
_CANVAS = 2 * _SIZE
"""Glyphs are distorted at twice the final size, so that thin strokes survive."""


def read() -> ImageArrays:
    """Render the letters: uint8 `[1508, 32, 32]`, classes "a" to "z".

    Each class has 20 train, 8 val and 30 test images. The same installation always renders the
    same pixels; another version of Pillow may differ in their last digits.
    """
    generator = np.random.default_rng(_SEED)
    pixels: list[UInt8[np.ndarray, "32 32"]] = []
    splits: dict[str, list[Item]] = {split: [] for split in _PER_CLASS}
    for split, count in _PER_CLASS.items():
        for label, letter in enumerate(string.ascii_lowercase):
            for _ in range(count):
                splits[split].append(Item(str(len(pixels)), label))
                pixels.append(_draw(letter, generator))
    return ImageArrays(np.stack(pixels), list(string.ascii_lowercase), splits)


def _draw(letter: str, generator: np.random.Generator) -> UInt8[np.ndarray, "32 32"]:
    font = HELD_OUT_FONTS[generator.integers(len(HELD_OUT_FONTS))]
    character = letter.upper() if generator.random() < 0.5 else letter
    image = Image.fromarray(render(font, character, _CANVAS))
    if (width := int(generator.choice((1, 3, 5)))) > 1:  # Pillow 12.3 divides by 0 for width 1
        image = image.filter(ImageFilter.MaxFilter(width))
    image = image.transform(
        image.size, Image.Transform.AFFINE, _affine(generator), Image.Resampling.BICUBIC
    )
    image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0, 2.5)))
    image = image.resize((_SIZE, _SIZE), Image.Resampling.BOX)
    ink = np.asarray(image) / 255
    dark, light = generator.uniform(0, 0.4), generator.uniform(0.6, 1)
    if generator.random() < 0.5:
        dark, light = light, dark
    noisy = dark + (light - dark) * ink + generator.normal(0, 0.06, ink.shape)
    return np.round(255 * noisy.clip(0, 1)).astype(np.uint8)


def _affine(generator: np.random.Generator) -> tuple[float, ...]:
    """Draw rotation, slant, scale and shift, as the six numbers of PIL's inverse mapping."""
    angle = np.radians(generator.uniform(-20, 20))
    slant = generator.uniform(-0.3, 0.3)
    width, height = 1.2 ** generator.uniform(-1, 1, 2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1, slant], [0, 1]]) @ np.diag([width, height])
    centre = np.full(2, _CANVAS / 2)
    shift = centre - matrix @ (centre + generator.uniform(-5, 5, 2))
    return (*matrix[0], shift[0], *matrix[1], shift[1])
