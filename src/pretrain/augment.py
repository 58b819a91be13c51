"""From clean glyphs to training images: batched distortions of ink, and thinning to strokes.

All randomness comes from torch's global generator.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

IMAGE_SIZE = 32
_GROUPS = 4
_RESOLUTIONS = (8, 10, 12, 16, 24, IMAGE_SIZE)


def augment(glyphs: Float[Tensor, "n s s"], strength: float) -> Float[Tensor, "n 3 32 32"]:
    """Distort, thicken or thin, degrade and colour a batch of glyphs.

    Args:
        glyphs: ink, 0 to 1, on a square canvas.
        strength: how strong every distortion is, 0 to 1; colour and polarity vary at any strength.

    Returns:
        RGB images, 0 to 1. Their last step is the bicubic resize that open_clip's inference
        transform does in PIL, from a resolution drawn for each quarter of the batch.
    """
    ink = _warp(glyphs[:, None], strength)
    return torch.cat([_degrade(group, strength) for group in ink.chunk(_GROUPS)])


def _uniform(shape: tuple[int, ...], low: float, high: float) -> Float[Tensor, "..."]:
    return torch.rand(shape) * (high - low) + low


def _warp(ink: Float[Tensor, "n 1 s s"], strength: float) -> Float[Tensor, "n 1 s s"]:
    """Apply a random affine and elastic deformation to each image."""
    count = len(ink)
    angle = _uniform((count,), -0.25, 0.25) * strength
    slant = _uniform((count,), -0.4, 0.4) * strength
    width = torch.exp(_uniform((count,), -0.25, 0.5) * strength)
    height = torch.exp(_uniform((count,), -0.25, 0.15) * strength)
    cosine, sine = angle.cos(), angle.sin()
    shift = _uniform((count, 2), -0.12, 0.12) * strength
    inverse = torch.stack(
        [
            torch.stack([cosine * width, (slant * cosine - sine) * height, shift[:, 0]], dim=1),
            torch.stack([sine * width, (slant * sine + cosine) * height, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(inverse, list(ink.shape), align_corners=False)
    waves = torch.randn(count, 2, 5, 5) * _uniform((count, 1, 1, 1), 0, 0.09) * strength
    elastic = functional.interpolate(waves, ink.shape[-2:], mode="bicubic", align_corners=True)
    return functional.grid_sample(ink, grid + elastic.movedim(1, -1), align_corners=False)


def _degrade(ink: Float[Tensor, "n 1 s s"], strength: float) -> Float[Tensor, "n 3 32 32"]:
    """Change thickness and resolution (one choice per call), tone, colour and noise."""
    each = (len(ink), 1, 1, 1)
    kernel = (3, 3, 5)[int(torch.randint(3, ()))]
    thicker = functional.max_pool2d(ink, kernel, stride=1, padding=kernel // 2)
    thinner = -functional.max_pool2d(-ink, 3, stride=1, padding=1)
    amount = _uniform(each, -0.7, 1) * strength
    ink = ink + amount.clamp(min=0) * (thicker - ink) - amount.clamp(max=0) * (thinner - ink)

    resolution = IMAGE_SIZE
    if float(torch.rand(())) < strength:
        resolution = _RESOLUTIONS[int(torch.randint(len(_RESOLUTIONS), ()))]
    ink = functional.interpolate(ink, (resolution, resolution), mode="bilinear", antialias=True)
    ink = ink.clamp(0, 1) ** torch.exp(_uniform(each, -0.7, 0.7) * strength)

    dark, light = _uniform(each, 0, 0.3), _uniform(each, 0.6, 1)
    tint = _uniform((len(ink), 3, 1, 1), -0.3, 0.3) * (torch.rand(each) < 0.5)
    swap = torch.rand(each) < 0.5
    ground = torch.where(swap, light, dark) + tint
    image = ground + (torch.where(swap, dark, light) - ground) * ink
    image = image + torch.randn_like(image) * _uniform(each, 0, 0.08) * strength
    # torch's antialiased bicubic kernel is PIL's; without `antialias` it is a sharper one.
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return functional.interpolate(image.clamp(0, 1), size, mode="bicubic", antialias=True).clamp(
        0, 1
    )


def thin(ink: Bool[Tensor, "n s s"]) -> Bool[Tensor, "n s s"]:
    """Thin strokes to lines of one pixel, keeping their topology (Zhang and Suen, 1984)."""
    while True:
        before = ink
        for first in (True, False):
            ink = ink & ~_removable(ink, first)
        if torch.equal(ink, before):
            return ink


def _removable(ink: Bool[Tensor, "n s s"], first: bool) -> Bool[Tensor, "n s s"]:
    """Mark the contour pixels that one sub-iteration of Zhang and Suen's thinning deletes."""
    padded = functional.pad(ink, (1, 1, 1, 1))
    size = ink.shape[-1]
    # Neighbours P2 to P9 of the paper: clockwise from the north.
    offsets = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))
    ring = torch.stack([padded[:, y : y + size, x : x + size] for y, x in offsets])
    north, east, south, west = ring[0], ring[2], ring[4], ring[6]
    neighbours = ring.sum(0, dtype=torch.uint8)
    rises = (~ring & ring.roll(-1, 0)).sum(0, dtype=torch.uint8)
    if first:
        sides = ~(north & east & south) & ~(east & south & west)
    else:
        sides = ~(north & east & west) & ~(north & south & west)
    return (neighbours >= 2) & (neighbours <= 6) & (rises == 1) & sides
