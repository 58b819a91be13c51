"""CALIP's logits, computed image by image as the paper writes them, against `src.heads.calip`.

The size is ImageNet's with RN50: 49 positions, 1,024 dimensions, 1,000 classes.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import machine
from benchmarks.side_by_side import Figure, Turns, take_turns
from src.heads.calip import Calip

IMAGES, POSITIONS, DIMENSIONS, CLASSES = 256, 49, 1024, 1000
LOGIT_SCALE, FACTOR, BETA2, BETA3 = 100.0, 2.0, 1.12, 0.02
SIZE = f"S={POSITIONS}, D={DIMENSIONS}, C={CLASSES}"


def features() -> tuple[Tensor, Tensor, Tensor]:
    """Make global, spatial and text features of images that resemble their class."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    text = noise(CLASSES, DIMENSIONS)
    own = text[torch.randint(CLASSES, (IMAGES,), generator=generator)]
    spatial = own.unsqueeze(1) + 8 * noise(IMAGES, POSITIONS, DIMENSIONS)
    return own + 8 * noise(IMAGES, DIMENSIONS), spatial, text


def plain(
    global_features: Float[Tensor, "n d"],
    spatial_features: Float[Tensor, "n s d"],
    text: Float[Tensor, "c d"],
) -> Float[Tensor, "n c"]:
    """Follow section 3.2 of the paper, image by image."""
    text = normalize(text, dim=-1)
    logits = []
    for image, positions in zip(global_features, spatial_features, strict=True):
        f, spatial = normalize(image, dim=-1), normalize(positions, dim=-1)
        affinity = FACTOR * spatial @ text.T
        attended_text = affinity.softmax(dim=0).T @ spatial
        attended = affinity.softmax(dim=1) @ text
        pooled = attended.mean(dim=0) + attended.amax(dim=0)
        clip = f @ text.T + BETA2 * (f @ attended_text.T) + BETA3 * (pooled @ text.T)
        logits.append(LOGIT_SCALE * clip)
    return torch.stack(logits)


def figures() -> Iterator[Figure]:
    """Compare in float32 and, where there are units for it, with attention in bfloat16."""
    given = features()
    turns = compare(given, torch.float32)
    share = share_of_limit(turns, torch.float32)
    yield _rate(turns, "float32", share, 2.0)
    yield Figure("CALIP, float32: share of a matrix product's rate", "", "", share, 0.7)
    difference = float((turns.results["ours"] - turns.results["plain"]).abs().max())
    yield Figure(
        "CALIP, float32: largest difference of a logit",
        f"{difference:.1e}", "", difference, 1e-4, at_least=False,
    )  # fmt: skip
    if not machine.bfloat16_units():
        print("CALIP with attention in bfloat16: not measured, because there are no units for it")
        return
    turns = compare(given, torch.bfloat16)
    yield _rate(turns, "bfloat16", share_of_limit(turns, torch.bfloat16), 3.0)
    top = [turns.results[way].argmax(dim=1) for way in ("ours", "plain")]
    same = float((top[0] == top[1]).float().mean())
    yield Figure("CALIP, bfloat16: same top-1 as float32", f"{same:.2%}", "", same, 0.999)


def compare(given: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> Turns:
    """Let the plain way and the head with attention in `dtype` take turns."""
    head = Calip(
        given[2], LOGIT_SCALE, FACTOR, BETA2, BETA3, bfloat16_attention=dtype == torch.bfloat16
    )
    with torch.inference_mode():
        return take_turns(plain=lambda: plain(*given), ours=lambda: head(*given[:2]))


def share_of_limit(turns: Turns, dtype: torch.dtype) -> float:
    """Compute the rate of the two products of each image, as a share of that of a large product."""
    operations = 2 * 2 * IMAGES * POSITIONS * DIMENSIONS * CLASSES
    return operations / machine.matrix_product_rate(dtype) / turns.median("ours")


def _rate(turns: Turns, precision: str, share: float, target: float) -> Figure:
    return Figure(
        f"CALIP's logits, {precision}, {SIZE}",
        f"{IMAGES / turns.median('ours'):,.0f} images/s",
        f"{IMAGES / turns.median('plain'):,.0f} images/s",
        turns.ratio("plain"),
        target,
        limit=f"{share:.0%} of a {precision} matrix product's rate",
    )
