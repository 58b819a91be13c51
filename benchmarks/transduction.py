"""Classifying all test images together at ImageNet's size: TransCLIP's and StatA's time and memory.

50,000 test images, 1,000 classes, 1,024 dimensions. The images lie around their classes' centres
and the texts near those, so that CLIP is right for most, as on ImageNet.
"""

import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import machine
from benchmarks.machine import GIB
from benchmarks.side_by_side import Figure
from benchmarks.tip_adapter_imagenet import (
    CLASSES,
    DIMENSIONS,
    IMAGES,
    LOGIT_SCALE,
)  # fmt: skip
from src.heads.stata import StatA
from src.heads.transclip import TransClip

BLOCK = 5_000
SPREAD, APART = 3.0, 2.5
"""The images' and the texts' distance from the centres: CLIP is right for about two in three."""
SECONDS, MEMORY = 120.0, 4.0
FITS, STEPS, NEIGHBOURS = 10, 5, 3


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Draw images and texts, and give the images' classes; without memory beyond them."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, DIMENSIONS, generator=generator)
    text = centres + APART * torch.randn(CLASSES, DIMENSIONS, generator=generator)
    label = torch.randint(CLASSES, (IMAGES,), generator=generator)
    images = torch.empty(IMAGES, DIMENSIONS)
    for own, block in zip(torch.split(label, BLOCK), torch.split(images, BLOCK), strict=True):
        block.normal_(generator=generator).mul_(SPREAD).add_(centres[own])
    return text, images, label


def plain_transclip(images: Tensor, text: Tensor) -> Tensor:
    """Follow the paper's equations with whole matrices, but for blocks of all similarities."""
    x, t = F.normalize(images, dim=1), F.normalize(text, dim=1)
    n, d = x.shape
    values, columns = [], []
    for block in torch.split(x, 1_000):
        value, column = (block @ x.T).topk(NEIGHBOURS + 1, dim=1)
        values.append(value[:, 1:])
        columns.append(column[:, 1:])
    rows = torch.arange(n).repeat_interleave(NEIGHBOURS)
    index, value = torch.stack([rows, torch.cat(columns).flatten()]), torch.cat(values).flatten()
    pull = torch.sparse_coo_tensor(index, value, (n, n), check_invariants=True)
    pull = (pull + pull.T).coalesce()
    p = (LOGIT_SCALE * x @ t.T).softmax(dim=1)
    z = p
    share, image = z.topk(8, dim=0)
    mean = F.normalize((share.unsqueeze(2) * x[image]).sum(dim=0), dim=1)
    variance = torch.full((d,), 1 / d)
    for _ in range(FITS):
        distance = (x.square() / variance).sum(dim=1, keepdim=True)
        distance = distance - 2 * x @ (mean / variance).T + (mean.square() / variance).sum(dim=1)
        for _ in range(STEPS):
            z = (p.log() - 0.5 * distance / 50 + pull @ z / (2 * NEIGHBOURS)).softmax(dim=1)
        mean = F.normalize(z.T @ x, dim=1)
        crossed = (mean * (z.T @ x)).sum(dim=0)
        variance = x.square().sum(dim=0) - 2 * crossed + z.sum(dim=0) @ mean.square()
        variance = variance / n
    return z


def measured(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Run once; give the seconds and the predictions."""
    began = time.perf_counter()
    found = work().argmax(dim=1)
    return time.perf_counter() - began, found


def figures() -> Iterator[Figure]:
    """Run TransCLIP, StatA, and last the plain version; memory is what the process ever held."""
    text, images, label = problem()
    transclip = TransClip(text, LOGIT_SCALE)
    stata = StatA(text, LOGIT_SCALE, 1.0)
    with torch.inference_mode():
        before, beyond = machine.resident_bytes(), []
        seconds, found = measured(lambda: transclip(images))
        beyond.append((machine.peak_bytes() - before) / GIB)
        of_stata, found_by_stata = measured(lambda: stata(images))
        beyond.append((machine.peak_bytes() - before) / GIB)
        plain, expected = measured(lambda: plain_transclip(images, text))
        clip = F.normalize(images, dim=1) @ F.normalize(text, dim=1).T

    def right(predicted: Tensor) -> str:
        return f"{100 * (predicted == label).double().mean():.1f} % right"

    agreed = (found == expected).double().mean().item()
    if agreed < 0.999:
        raise RuntimeError(f"only {agreed:.2%} of the images have the plain version's class")
    pairs, product = IMAGES**2 * DIMENSIONS, 2 * IMAGES * CLASSES * DIMENSIONS
    size = f"{IMAGES:,} × {CLASSES:,}, D={DIMENSIONS}"
    yield Figure(
        f"TransCLIP, {size}: seconds (CLIP: {right(clip.argmax(dim=1))})",
        f"{seconds:.1f} s, {right(found)}", f"{plain:.0f} s, {right(expected)}",
        seconds, SECONDS, at_least=False,
        limit=machine.share(seconds, operations=pairs + 2 * FITS * product),
    )  # fmt: skip
    yield Figure(
        f"TransCLIP, {size}: GiB beyond the inputs", f"{beyond[0]:.2f} GiB", "",
        beyond[0], MEMORY, at_least=False,
    )  # fmt: skip
    yield Figure(
        f"StatA, {size}: seconds", f"{of_stata:.1f} s, {right(found_by_stata)}", "",
        of_stata, SECONDS, at_least=False,
        limit=machine.share(of_stata, operations=pairs + 4 * FITS * product),
    )  # fmt: skip
    yield Figure(
        f"StatA, {size}: GiB beyond the inputs", f"{beyond[1]:.2f} GiB", "",
        beyond[1], MEMORY, at_least=False,
    )  # fmt: skip
