"""Training Tip-Adapter-F at ImageNet's 16-shot size, as a run does it.

Beside it are its bare matrix products, and what encoding the support set again in each of the 20
epochs would take, computed from the rate at which our extraction encodes by RN50, measured here.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from lightning import Trainer
from torch import nn

from benchmarks import extraction
from benchmarks.side_by_side import Figure, take_turns
from src.clip.model import FrozenClip
from src.clip.precision import AUTO, resolve
from src.features.datamodule import FeatureDataModule, SupportBatches
from src.heads.support import Support
from src.heads.tip_adapter import TipAdapter
from src.methods.trained import Schedule, Trained
from src.results.scores import make_metrics

SHOTS, CLASSES, DIMENSIONS, VIEWS = 16, 1000, 1024, 10
BATCH, EPOCHS, MEASURED_EPOCHS = 256, 20, 1
LOGIT_SCALE = 100.0
ROUNDS = 3


def optimizer(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimizer of conf/method/tip_adapter_f.yaml."""
    return torch.optim.AdamW(parameters, lr=1e-3, eps=1e-4, fused=True)


def figures() -> Iterator[Figure]:
    """Train for an epoch, beside an epoch's matrix products and the encoding of a batch."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    generator = torch.Generator().manual_seed(0)
    images = SHOTS * CLASSES
    features = torch.randn(VIEWS, images, DIMENSIONS, generator=generator).half()
    label = torch.arange(images) % CLASSES
    text = torch.randn(CLASSES, DIMENSIONS, generator=generator)
    support = Support({"global": features}, label)
    head = TipAdapter(text, LOGIT_SCALE, alpha=1.17, beta=1.0)
    head.prepare(support)
    unused: Any = ()
    batches = SupportBatches(support.features, label, head.inputs)

    def ours() -> None:
        method = Trained(
            head, make_metrics(CLASSES), optimizer, Schedule(MEASURED_EPOCHS), keep="last"
        )
        data = FeatureDataModule(
            head.inputs, BATCH, test=unused, train=batches, train_batch_size=BATCH
        )
        trainer = Trainer(
            accelerator="cpu", max_epochs=MEASURED_EPOCHS, logger=False,
            enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        )  # fmt: skip
        trainer.fit(method, datamodule=data)

    keys = head.keys.detach().clone()

    def products() -> None:
        for rows in torch.split(torch.arange(images), BATCH):
            batch = features[0, rows].float()
            batch @ text.T
            affinity = keys @ batch.T
            affinity @ batch  # the gradient of the keys

    turns = take_turns(rounds=ROUNDS, ours=ours, products=products)
    precision = resolve(AUTO, extraction.trainer)
    rate = extraction.ENCODED / extraction.encoding(
        FrozenClip.load("RN50-quickgelu", None), precision
    ).median("ours")
    seconds = turns.median("ours") * EPOCHS / MEASURED_EPOCHS
    size = f"{images:,} keys, {EPOCHS} epochs"
    encoding = images * EPOCHS / rate
    share = turns.ratio("products")
    yield Figure(
        f"Tip-Adapter-F, {size}, beside encoding in each epoch (RN50, {precision})",
        f"{seconds:.0f} s", f"{encoding:,.0f} s for encoding", encoding / seconds, 10.0,
        limit=f"{share:.0%} of its matrix products' rate",
    )  # fmt: skip
    yield Figure(
        f"Tip-Adapter-F, {size}: times as long as its bare matrix products",
        f"{seconds:.0f} s",
        f"{turns.median('products') * EPOCHS:.0f} s",
        1 / share,
        2.0,
        at_least=False,
    )
