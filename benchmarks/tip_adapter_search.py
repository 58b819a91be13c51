"""Tip-Adapter's search for beta and alpha against the release's double loop over 200 × 20 values.

The size is that of Flowers: 1,633 validation images, 16 shots of 102 classes. The plain loop does
in every cell what the release does: affinity, cache logits, CLIP's logits. Some cells are timed,
and all that they cost is computed from those.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from benchmarks import machine
from benchmarks.side_by_side import Figure, take_turns
from src.heads.support import Support
from src.heads.tip_adapter import TipAdapter
from src.methods.search import Range, Search

IMAGES, SHOTS, CLASSES, DIMENSIONS = 1633, 16, 102, 1024
LOGIT_SCALE = 100.0
BETA = Range("beta", 0.1, 50.0, 200)
ALPHA = Range("alpha", 0.1, 50.0, 20)
DEFAULT = {"beta": 1.0, "alpha": 10.0}
BATCH = 256
SAMPLED_CELLS = 10
ROUNDS = 3


def features() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Make features of images, of text and of the support set, and both sets' labels."""
    generator = torch.Generator().manual_seed(0)

    def noise(n: int) -> Tensor:
        return 5 * torch.randn(n, DIMENSIONS, generator=generator)

    centres = torch.randn(CLASSES, DIMENSIONS, generator=generator)
    label = torch.randint(CLASSES, (IMAGES,), generator=generator)
    key_label = torch.arange(CLASSES).repeat_interleave(SHOTS)
    images, keys = centres[label] + noise(IMAGES), centres[key_label] + noise(len(key_label))
    return images, centres + 2 * noise(CLASSES), keys, label, key_label


def figures() -> Iterator[Figure]:
    """Compare the time of the whole search, and what it finds."""
    images, text, keys, label, key_label = features()
    head: Any = TipAdapter(text, LOGIT_SCALE, DEFAULT["alpha"], DEFAULT["beta"])
    head.prepare(Support({"global": keys.unsqueeze(0)}, key_label))
    image_features, text = normalize(images, dim=-1), normalize(text, dim=-1)
    cache_keys, values = normalize(keys, dim=-1), one_hot(key_label).float()

    def ours() -> float:
        search = Search("exact", BETA, ALPHA, DEFAULT)
        for rows in torch.split(torch.arange(IMAGES), BATCH):
            search.add(head, [images[rows]], label[rows])
        return search.best().accuracy

    def cell(beta: float, alpha: float) -> int:
        affinity = image_features @ cache_keys.T
        cache_logits = ((-1) * (beta - beta * affinity)).exp() @ values
        logits = LOGIT_SCALE * image_features @ text.T + cache_logits * alpha
        return int((logits.argmax(dim=1) == label).sum())

    def sample() -> None:
        for beta in BETA.grid()[:: BETA.steps // SAMPLED_CELLS]:
            cell(beta, DEFAULT["alpha"])

    def best_of_grid() -> float:
        clip, affinity = LOGIT_SCALE * image_features @ text.T, image_features @ cache_keys.T
        right = 0
        for beta in BETA.grid():
            cache_logits = (beta * affinity - beta).exp() @ values
            for alpha in ALPHA.grid():
                found = ((clip + alpha * cache_logits).argmax(dim=1) == label).sum()
                right = max(right, int(found))
        return 100 * right / IMAGES

    with torch.inference_mode():
        turns = take_turns(rounds=ROUNDS, ours=ours, plain=sample)
        best = best_of_grid()
    cells = BETA.steps * ALPHA.steps
    plain = turns.median("plain") / SAMPLED_CELLS * cells
    yield Figure(
        f"Tip-Adapter's 200 × 20 search, {IMAGES:,} × {len(keys):,} × {CLASSES}",
        f"{turns.median('ours'):.2f} s",
        f"{plain:,.0f} s (from {SAMPLED_CELLS} cells of {cells:,})",
        turns.ratio("plain") * cells / SAMPLED_CELLS,
        100.0,
        # The affinities, and each of them read for every beta.
        limit=machine.share(
            turns.median("ours"),
            operations=2 * IMAGES * len(keys) * DIMENSIONS,
            moved=4 * IMAGES * len(keys) * BETA.steps,
        ),
    )
    found = turns.results["ours"]
    yield Figure(
        "Tip-Adapter's search: validation accuracy above the grid's best, points",
        f"{found:.2f} %", f"{best:.2f} %", found - best, 0.0,
    )  # fmt: skip
