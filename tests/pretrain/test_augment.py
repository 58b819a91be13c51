import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image
from scipy.ndimage import label
from torch.nn import functional

from src.data.glyphs import PRETRAINING_FONTS, render
from src.pretrain.augment import IMAGE_SIZE, augment, thin

EIGHT_CONNECTED = np.ones((3, 3))


def glyphs(characters: str) -> torch.Tensor:
    pixels = np.stack([render(PRETRAINING_FONTS[0], c, 48) for c in characters])
    return torch.from_numpy(pixels) / 255


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**32))
def test_images_are_rgb_between_0_and_1(strength: float, seed: int):
    torch.manual_seed(seed)
    images = augment(glyphs("0aB7xyzQ"), strength)
    assert images.shape == (8, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert 0 <= images.min() <= images.max() <= 1


def test_strength_zero_only_recolours():
    torch.manual_seed(0)
    ink = glyphs("0aB7xyzQ")
    small = functional.interpolate(
        ink[:, None], (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True
    )[:, 0]
    for image, expected in zip(augment(ink, 0).mean(1), small, strict=True):
        correlation = torch.corrcoef(torch.stack([image.flatten(), expected.flatten()]))[0, 1]
        assert abs(correlation) > 0.99


def test_equal_seeds_give_equal_images_and_different_seeds_do_not():
    images = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images.append(augment(glyphs("0aB7"), 1))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_upsampling_is_that_of_the_inference_transform():
    # Mid-range values: PIL also clips between its two passes, which matters at the extremes.
    pixels = np.random.default_rng(0).integers(64, 192, (8, 8, 3), dtype=np.uint8)
    expected = image_transform(IMAGE_SIZE, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))(
        Image.fromarray(pixels)
    )
    ours = functional.interpolate(
        torch.from_numpy(pixels).movedim(-1, 0)[None] / 255,
        (IMAGE_SIZE, IMAGE_SIZE),
        mode="bicubic",
        antialias=True,
    ).clamp(0, 1)[0]
    assert (ours - expected).abs().max() < 2 / 255


@pytest.mark.parametrize("character", list("0i8Agkm%"))
def test_thinning_keeps_the_topology(character: str):
    ink = glyphs(character) > 0.5
    line = thin(ink)
    assert not (line & ~ink).any()
    assert line.sum() < 0.6 * ink.sum()
    assert torch.equal(thin(line), line)
    parts = [label(mask[0].numpy(), EIGHT_CONNECTED)[1] for mask in (ink, line)]
    holes = [label(~mask[0].numpy())[1] for mask in (ink, line)]
    assert parts[0] == parts[1]
    assert holes[0] == holes[1]


def test_thinning_leaves_lines_of_one_pixel():
    cross = torch.zeros(1, 9, 9, dtype=torch.bool)
    cross[0, 4, 1:8] = cross[0, 1:8, 4] = True
    assert torch.equal(thin(cross), cross)
