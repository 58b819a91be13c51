"""Streams at ImageNet's size: 50,000 images that arrive one by one, or 32 at a time.

TDA classifies the whole stream. Beside it stands the published algorithm image by image, which
takes far too long for that: it begins with the caches as they are before the last images, and its
time for those is scaled. Both give these the same answers, or there is no figure.

OGA fits its Gaussian classes anew for each batch that changes its memory, and its time is that of
some batches with a full memory, scaled.
"""

import math
import operator
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from benchmarks import machine
from benchmarks.side_by_side import Figure
from src.heads.oga import Oga
from src.heads.tda import Cache, Tda

IMAGES, CLASSES, DIMENSIONS = 50_000, 1000, 1024
LOGIT_SCALE = 100.0
ALPHA, BETA, CAPACITY = 2.0, 5.0, 3
NEGATIVE_ALPHA, NEGATIVE_BETA, NEGATIVE_CAPACITY = 0.117, 1.0, 2
ENTROPY, MASK = (0.2, 0.5), (0.03, 1.0)
TAU = 0.05
BLOCK = 256  # images in a call
LAST = 512  # images of TDA's stream that the plain loop classifies
BATCH, BATCHES, PLAIN_BATCHES = 32, 16, 4  # of OGA's stream

Items = dict[int, list[list[Any]]]  # the feature, the entropy and the probabilities, by class


def problem() -> tuple[Tensor, Tensor]:
    """Make class texts and images near them, so that some are sure and some are not."""
    generator = torch.Generator().manual_seed(0)
    text = normalize(torch.randn(CLASSES, DIMENSIONS, generator=generator), dim=-1)
    label = torch.randint(CLASSES, (IMAGES,), generator=generator)
    near = 0.02 + 0.18 * torch.rand(IMAGES, 1, generator=generator)
    noise = torch.randn(IMAGES, DIMENSIONS, generator=generator) / math.sqrt(DIMENSIONS)
    return text, noise.addcmul_(near, text[label])


def in_blocks(head: Any, images: Tensor) -> Tensor:
    """Classify a stream as a run does."""
    return torch.cat([head(block) for block in torch.split(images, BLOCK)])


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Run something once; return the seconds and what it returned."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def put(cache: Items, label: int, item: list[Any], capacity: int) -> None:
    """Put an image before a cache, as published."""
    own = cache.setdefault(label, [])
    if len(own) < capacity:
        own.append(item)
    elif item[1] < own[-1][1]:
        own[-1] = item
    own.sort(key=operator.itemgetter(1))


def votes(f: Tensor, cache: Items, beta: float, mask: tuple[float, float] | None) -> Tensor:
    """Compare an image with the keys of a cache, as published."""
    items = [(label, item) for label in sorted(cache) for item in cache[label]]
    keys = torch.cat([item[0] for _, item in items]).T
    if mask is None:
        values = one_hot(torch.tensor([label for label, _ in items]), CLASSES)
    else:
        probabilities = torch.cat([item[2] for _, item in items])
        values = (probabilities > mask[0]) & (probabilities < mask[1])
    return (-(beta - beta * (f @ keys))).exp() @ values.to(f)


def plain_tda(text: Tensor, images: Tensor, positive: Items, negative: Items) -> Tensor:
    """Classify images one by one, as published."""
    found = []
    for image in torch.split(images, 1):
        f = normalize(image, dim=-1)
        logits = LOGIT_SCALE * f @ text.T
        p = logits.softmax(dim=-1)
        entropy = -(p * logits.log_softmax(dim=-1)).sum().item()
        label = int(logits.argmax())
        put(positive, label, [f, entropy], CAPACITY)
        if ENTROPY[0] < entropy / math.log2(CLASSES) < ENTROPY[1]:
            put(negative, label, [f, entropy, p], NEGATIVE_CAPACITY)
        logits += ALPHA * votes(f, positive, BETA, None)
        logits -= NEGATIVE_ALPHA * votes(f, negative, NEGATIVE_BETA, MASK)
        found.append(logits)
    return torch.cat(found)


def tda(text: Tensor) -> Tda:
    """Make the head with the published settings."""
    return Tda(
        text, LOGIT_SCALE, ALPHA, BETA, NEGATIVE_ALPHA, NEGATIVE_BETA, CAPACITY, NEGATIVE_CAPACITY,
        *ENTROPY, *MASK,
    )  # fmt: skip


def caches(head: Tda) -> tuple[Items, Items]:
    """List what a head's caches hold; of the probabilities, only on which side they are."""
    inside = (MASK[0] + MASK[1]) / 2

    def held(cache: Cache, no: bool) -> Items:
        return {
            label: [
                [cache.keys[slot][None], entropy, inside * head.against[slot][None] if no else None]
                for entropy, slot in best
            ]
            for label, best in enumerate(cache.best)
            if best
        }

    return held(head.positive, False), held(head.negative, True)


def plain_oga(text: Tensor, images: Tensor, memory: Tensor, entropy: Tensor) -> Tensor:
    """Classify images batch by batch with a full memory, and invert anew for each."""
    found = []
    for batch in torch.split(images, BATCH):
        f = normalize(batch, dim=-1)
        logits = LOGIT_SCALE * f @ text.T
        unsure = -(logits.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1)
        for row, label in enumerate(logits.argmax(dim=-1).tolist()):
            if (unsure[row] < entropy[label]).any():
                place = entropy[label].argmax()
                memory[label, place], entropy[label, place] = f[row], unsure[row]
        mean = memory.mean(dim=1)
        inverse = torch.linalg.pinv(torch.cov((memory - mean[:, None]).flatten(0, 1).T))
        weight = mean @ inverse
        gaussian = f @ weight.T - (weight * mean).sum(dim=-1) / 2
        gaussian -= ((f @ inverse) * f).sum(dim=-1, keepdim=True) / 2
        found.append((logits.softmax(-1) * (TAU * gaussian).softmax(-1)).log())
    return torch.cat(found)


def check(ours: Tensor, plain: Tensor) -> None:
    """Refuse to compare ways to different results.

    Raises:
        RuntimeError: the probabilities or the answers are not the same.
    """
    same = (ours.argmax(dim=1) == plain.argmax(dim=1)).double().mean().item()
    apart = (ours.softmax(dim=1) - plain.softmax(dim=1)).abs().max().item()
    if same < 0.995 or apart > 0.01:
        raise RuntimeError(f"{same:.2%} of the answers are the same; probabilities {apart} apart")


def figures() -> Iterator[Figure]:
    """Measure TDA, then OGA."""
    text, images = problem()
    size = f"{IMAGES:,} × {CLASSES:,}, D={DIMENSIONS}"
    earlier, last = images[:-LAST], images[-LAST:]
    with torch.inference_mode():
        head = tda(text)
        before, _ = timed(lambda: in_blocks(head, earlier))
        full = caches(head)
        keys = [sum(map(len, cache.values())) for cache in full]
        after, ours = timed(lambda: in_blocks(head, last))
        seconds = before + after
        of_last, plain = timed(lambda: plain_tda(text, last, *full))
        check(ours, plain)
        scaled = of_last * IMAGES / LAST
        yield Figure(
            f"TDA, a stream of {size}; plain: image by image, the last {LAST} with "
            f"{keys[0]:,} + {keys[1]:,} keys, scaled",
            f"{seconds:.1f} s", f"{scaled:,.0f} s", scaled / seconds, 20.0,
            limit=machine.share(
                seconds, operations=2 * IMAGES * (DIMENSIONS * (CLASSES + sum(keys))
                + CLASSES * keys[1]),
            ),
        )  # fmt: skip

        gaussian = Oga(text, LOGIT_SCALE, TAU, batch_size=len(earlier))
        gaussian(earlier)  # as one batch, which fills the memory as small ones would
        gaussian.batch_size = BATCH
        memory = gaussian.memory.clone()
        entropy = torch.tensor(gaussian.entropy)
        stretch = last[: BATCH * BATCHES]
        took, ours = timed(lambda: in_blocks(gaussian, stretch))
        first = stretch[: BATCH * PLAIN_BATCHES]
        plainly, plain = timed(lambda: plain_oga(text, first, memory, entropy))
        check(ours[: len(first)], plain)
        batches = math.ceil(IMAGES / BATCH)
        seconds = took * batches / math.ceil(len(stretch) / BATCH)
        scaled = plainly * batches / PLAIN_BATCHES
        yield Figure(
            f"OGA, {BATCH} at a time, a stream of {size}; both: some batches with a full memory, "
            "scaled",
            f"{seconds:,.0f} s", f"{scaled:,.0f} s", scaled / seconds, None,
        )  # fmt: skip
