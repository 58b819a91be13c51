"""CALIP's search for beta2 and beta3 against a double loop over 200 × 200 values.

The plain loop computes the logits again in every cell, from features that were attended once, image
by image; some of its cells are timed, and all that they cost is computed from those. A loop that
keeps the three logits and only blends them is run whole: what it finds is the grid's best.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import machine
from benchmarks.side_by_side import Figure, take_turns
from src.heads.calip import Calip
from src.methods.search import Range, Search

IMAGES, POSITIONS, DIMENSIONS, CLASSES = 5000, 49, 1024, 100
LOGIT_SCALE, FACTOR = 100.0, 2.0
BETA3 = Range("beta3", 0.001, 0.1, 200)
BETA2 = Range("beta2", 0.001, 2.0, 200)
DEFAULT = {"beta3": 0.02, "beta2": 1.12}
BATCH = 256
SAMPLED_CELLS = 20
ROUNDS = 3


def features() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make global, spatial and text features of images that resemble their class, and labels."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(CLASSES, DIMENSIONS, generator=generator)
    label = torch.randint(CLASSES, (IMAGES,), generator=generator)
    spatial = torch.randn(IMAGES, POSITIONS, DIMENSIONS, generator=generator).mul_(12)
    spatial += text[label].unsqueeze(1)
    image = text[label] + 12 * torch.randn(IMAGES, DIMENSIONS, generator=generator)
    return image, spatial, text, label


def attended(image: Tensor, spatial: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `f (T^a)ᵀ` `[n, c]` and f^a `[n, d]` of normalised features, image by image."""
    text_terms, pooled = [], []
    for f, positions in zip(image, spatial, strict=True):
        affinity = FACTOR * normalize(positions, dim=-1) @ text.T
        text_terms.append(f @ (affinity.softmax(dim=0).T @ normalize(positions, dim=-1)).T)
        visual = affinity.softmax(dim=1) @ text
        pooled.append(visual.mean(dim=0) + visual.amax(dim=0))
    return torch.stack(text_terms), torch.stack(pooled)


def figures() -> Iterator[Figure]:
    """Compare the time of the whole search, and what it finds."""
    image, spatial, raw_text, label = features()
    head: Any = Calip(raw_text, LOGIT_SCALE, FACTOR, DEFAULT["beta2"], DEFAULT["beta3"])
    f, text = normalize(image, dim=-1), normalize(raw_text, dim=-1)
    cells = BETA3.steps * BETA2.steps

    def ours() -> Search:
        search = Search("exact", BETA2, BETA3, DEFAULT)
        for start in range(0, IMAGES, BATCH):
            rows = slice(start, start + BATCH)
            search.add(head, [image[rows], spatial[rows]], label[rows])
        search.best()
        return search

    def recomputing() -> None:
        for beta2 in BETA2.grid()[:SAMPLED_CELLS]:
            logits = LOGIT_SCALE * f @ text.T + beta2 * LOGIT_SCALE * text_term
            logits = logits + DEFAULT["beta3"] * LOGIT_SCALE * pooled @ text.T
            (logits.argmax(dim=1) == label).sum()

    def blending() -> int:
        terms = (f @ text.T, text_term, pooled @ text.T)
        clip, by_text, by_image = (LOGIT_SCALE * term for term in terms)
        return max(
            int(((clip + beta2 * by_text + beta3 * by_image).argmax(dim=1) == label).sum())
            for beta3 in BETA3.grid()
            for beta2 in BETA2.grid()
        )

    with torch.inference_mode():
        first = take_turns(rounds=1, attention=lambda: attended(f, spatial, text))
        text_term, pooled = first.results["attention"]
        turns = take_turns(rounds=ROUNDS, ours=ours, cells=recomputing)
        whole = take_turns(rounds=1, blending=blending)
    per_cell = turns.median("cells") / SAMPLED_CELLS
    plain = first.median("attention") + cells * per_cell
    size = f"N={IMAGES:,}, C={CLASSES}, D={DIMENSIONS}"
    yield Figure(
        f"CALIP's 200 × 200 search, {size}",
        f"{turns.median('ours'):.2f} s",
        f"{plain:,.0f} s (from {SAMPLED_CELLS} cells of {cells:,})",
        plain / turns.median("ours"),
        100.0,
        # Two products with the text for every position, and the two logits of a line read for
        # every beta2.
        limit=machine.share(
            turns.median("ours"),
            operations=4 * IMAGES * POSITIONS * DIMENSIONS * CLASSES,
            moved=2 * 4 * IMAGES * CLASSES * BETA2.steps,
        ),
    )
    blended = first.median("attention") + whole.median("blending")
    yield Figure(
        "the same beside a loop that keeps the logits and only blends them",
        f"{turns.median('ours'):.2f} s", f"{blended:.1f} s", blended / turns.median("ours"), None,
    )  # fmt: skip
    found = turns.results["ours"].best().accuracy
    best = 100 * whole.results["blending"] / IMAGES
    yield Figure(
        "CALIP's search: validation accuracy above the grid's best, points",
        f"{found:.2f} %", f"{best:.2f} %", found - best, 0.0,
    )  # fmt: skip
