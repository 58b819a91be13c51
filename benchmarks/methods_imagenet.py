"""Methods of closed form at ImageNet's size: seconds and memory of the fit and of the search.

1,000 classes, 16 shots, 1,024 dimensions; 10 crops of each image for GDA, their mean elsewhere.
Searches see `SEARCHED` images: 4 for each class, what `selection=val_few_shot` has.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.machine import GIB
from benchmarks.side_by_side import Figure
from benchmarks.tip_adapter_imagenet import (
    ALPHA,
    BATCH,
    BETA,
    CLASSES,
    DIMENSIONS,
    IMAGES,
    LOGIT_SCALE,
    SHOTS,
)  # fmt: skip
from src.heads.ape import Ape
from src.heads.gda import Gda
from src.heads.kernel_ridge import KernelRidge
from src.heads.lp_plus_plus import LPPlusPlus
from src.heads.support import Support
from src.heads.tip_adapter import TipAdapter
from src.methods.lp_plus_plus import LPPlusPlus as Method
from src.methods.search import Range, Search, Values

CROPS, SEARCHED, ROUNDS = 10, 4000, 5
GAMMA = Range("gamma", 0.1, 0.5, 4)
APE_ALPHA = Range("alpha", 0.1, 7.0, 20)


def features(*shape: int, seed: int) -> Tensor:
    """Make features as the store holds them, in float16."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, DIMENSIONS, generator=generator).half()


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def search(head: Any, images: Tensor, label: Tensor, *axes: Any) -> None:
    """Search as a run does, batch by batch."""
    *outer, inner = axes
    search = Search("exact", outer, inner, head.chosen())
    for batch, of_batch in zip(torch.split(images, BATCH), torch.split(label, BATCH), strict=True):
        search.add(head, [batch.float()], of_batch)
    search.best()


def score(head: Any, images: Tensor) -> None:
    for batch in torch.split(images, BATCH):
        head(batch.float()).argmax(dim=1)


def figures() -> Iterator[Figure]:
    """Fit, search and score, one method after another; memory is what the process ever held."""
    crops = features(CROPS, SHOTS * CLASSES, seed=1)
    label = torch.arange(SHOTS * CLASSES) % CLASSES
    many = Support({"global": crops}, label)
    one = Support({"global": crops[:1].clone()}, label)
    text = features(CLASSES, seed=2).float()
    images = features(IMAGES, seed=3)
    of_images = torch.arange(IMAGES) % CLASSES
    searched, of_searched = images[:SEARCHED], of_images[:SEARCHED]
    size = f"{SHOTS * CLASSES:,} keys, D={DIMENSIONS}, {CLASSES:,} classes"
    with torch.inference_mode():
        before = machine.peak_bytes()
        gda = Gda(text, LOGIT_SCALE, 0.1)
        values = Values("alpha", [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2])
        took = seconds(lambda: gda.prepare(many)) + seconds(
            lambda: search(gda, images, of_images, values)
        )
        yield Figure(
            f"GDA, {size}, {CROPS} crops: fit, and search on {IMAGES:,} images: seconds",
            f"{took:.0f} s", "", took, 60, at_least=False,
        )  # fmt: skip
        yield Figure(
            "GDA: GiB beyond the inputs",
            "",
            "",
            (machine.peak_bytes() - before) / GIB,
            3,
            at_least=False,
        )

        cache = TipAdapter(text, LOGIT_SCALE, 1.17, 1.0)
        cache.prepare(one)
        tip = seconds(lambda: search(cache, searched, of_searched, BETA, ALPHA))
        ape = Ape(text, LOGIT_SCALE, 2.0, 1.0, 0.1, 500, 0.7, 0.3)
        ape.prepare(one)
        three = seconds(lambda: search(ape, searched, of_searched, BETA, GAMMA, APE_ALPHA))
        yield Figure(
            f"APE's search over three settings, {SEARCHED:,} images: times Tip-Adapter's over two",
            f"{three:.0f} s", f"{tip:.0f} s", three / tip, 5, at_least=False,
        )  # fmt: skip

        before = machine.peak_bytes()
        ridge = KernelRidge(text, LOGIT_SCALE, 0.1, 0.5, 1.0)
        took = seconds(lambda: ridge.prepare(one)) + seconds(lambda: score(ridge, images))
        yield Figure(
            f"kernel ridge, {size}: fit, and scoring of {IMAGES:,} images: seconds",
            f"{took:.0f} s", "", took, 120, at_least=False,
        )  # fmt: skip
        yield Figure(
            "kernel ridge: GiB beyond the most before",
            "", "", (machine.peak_bytes() - before) / GIB, 3, at_least=False,
        )  # fmt: skip

    yield _lp_plus_plus(text, one)


def _lp_plus_plus(text: Tensor, support: Support) -> Figure:
    """Compare an epoch of LP++ with the two matrix products that it cannot do without."""
    head = LPPlusPlus(text)
    head.prepare(support)
    method = Method(head, nn.Identity(), keep="last", momentum=0.9, alpha_interval=10)
    optimizer = method.configure_optimizers()
    x, label = support.features["global"][0].float(), support.label
    g = torch.randn(len(x), CLASSES)

    def epoch() -> None:
        method._differentiate(x, label)
        optimizer.step()

    def bare() -> None:
        with torch.no_grad():
            x @ head.weight.T
            g.T @ x

    epoch()
    ours, plain = machine.best_of(epoch, ROUNDS), machine.best_of(bare, ROUNDS)
    return Figure(
        f"LP++, {len(x):,} x {DIMENSIONS}, {CLASSES:,} classes: an epoch, times its bare products",
        f"{ours:.2f} s", f"{plain:.2f} s", ours / plain, 1.5, at_least=False,
    )  # fmt: skip
