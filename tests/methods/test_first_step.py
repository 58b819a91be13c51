"""One training step of each adapter is compared with the paper's formula in plain torch."""

from functools import partial

import pytest
import torch
from lightning import Trainer
from torch.nn.functional import cross_entropy, normalize, one_hot

from src.features.datamodule import FeatureDataModule, SupportBatches
from src.heads.calip_fs import CalipFS
from src.heads.clip_adapter import ClipAdapter
from src.heads.multi_view import MultiView
from src.heads.pointclip import PointClip
from src.heads.support import Support
from src.heads.tip_adapter import TipAdapter
from src.methods.trained import Schedule, Trained
from tests.methods.metrics import Accuracy

CLASSES, SHOTS, VIEWS, WIDTH, POSITIONS = 3, 4, 2, 8, 5


@pytest.fixture
def material():
    generator = torch.Generator().manual_seed(0)
    text = normalize(torch.randn(CLASSES, WIDTH, generator=generator), dim=-1)
    n = CLASSES * SHOTS
    features = {
        "global": torch.randn(VIEWS, n, WIDTH, generator=generator),
        "spatial": torch.randn(VIEWS, n, POSITIONS, WIDTH, generator=generator),
    }
    return text, Support(features, torch.arange(n) % CLASSES)


def train_one_step(head, support):
    """Train for one epoch of one batch, which is the first crop of every support image."""
    optimizer = partial(torch.optim.AdamW, lr=1e-3, eps=1e-4)
    method = Trained(head, Accuracy(), optimizer, Schedule(1), "last")
    train = SupportBatches(support.features, support.label, head.inputs)
    data = FeatureDataModule(head.inputs, 4, None, None, train, len(support.label))
    Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    ).fit(method, datamodule=data)  # fmt: skip


def plain_step(parameters, logits, label, loss=cross_entropy):
    """Take the same step in plain torch; `logits` is computed from `parameters`."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, eps=1e-4)
    loss(logits, label).backward()
    optimizer.step()
    return parameters


def test_tip_adapter_f(material):
    text, support = material
    head = TipAdapter(text, 100.0, alpha=2.0, beta=3.0)
    head.prepare(support)
    keys = normalize(support.features["global"].mean(dim=0), dim=-1).requires_grad_()
    torch.testing.assert_close(head.keys, keys)
    train_one_step(head, support)
    f = normalize(support.features["global"][0], dim=-1)
    values = one_hot(support.label, CLASSES).float()
    logits = 100 * f @ text.T + 2 * torch.exp(-3 * (1 - f @ keys.T)) @ values
    (expected,) = plain_step([keys], logits, support.label)
    torch.testing.assert_close(head.keys, expected, atol=1e-6, rtol=1e-5)


def test_clip_adapter(material):
    text, support = material
    head = ClipAdapter(text, 100.0, residual_ratio=0.2)
    down, up = (p.detach().clone().requires_grad_() for p in head.parameters())
    train_one_step(head, support)
    f = support.features["global"][0]
    blended = 0.2 * torch.relu(torch.relu(f @ down.T) @ up.T) + 0.8 * f
    logits = 100 * normalize(blended, dim=-1) @ text.T
    expected = plain_step([down, up], logits, support.label)
    for own, plain in zip(head.parameters(), expected, strict=True):
        torch.testing.assert_close(own, plain, atol=1e-6, rtol=1e-5)


def test_calip_fs(material):
    text, support = material
    head = CalipFS(text, 100.0, attention_factor=2.0, beta2=1.0, beta3=0.3, shared=False)
    names = [name for name, _ in head.named_parameters()]
    weight = {name: torch.zeros(WIDTH, WIDTH, requires_grad=True) for name in names}
    train_one_step(head, support)

    def layer(modality, kind, x):
        return x + x @ weight[f"{modality}_layers.{kind}.weight"].T

    logits = []
    images = zip(support.features["global"][0], support.features["spatial"][0], strict=True)
    for image, positions in images:
        f, spatial = normalize(image, dim=-1), normalize(positions, dim=-1)
        to_text = 2 * layer("visual", "key", spatial) @ layer("text", "query", text).T
        to_visual = 2 * layer("visual", "query", spatial) @ layer("text", "key", text).T
        attended_text = to_text.softmax(dim=0).T @ layer("visual", "value", spatial)
        attended = to_visual.softmax(dim=1) @ layer("text", "value", text)
        pooled = layer("visual", "output", attended.mean(dim=0) + attended.amax(dim=0))
        text_term = layer("text", "output", attended_text) @ f
        logits.append(100 * (text @ f + text_term + 0.3 * text @ pooled))
    plain_step(list(weight.values()), torch.stack(logits), support.label)
    for name, own in head.named_parameters():
        torch.testing.assert_close(own, weight[name], atol=1e-5, rtol=1e-4)
        assert own.abs().max() > 0


def smoothed(logits, label):
    """Spread 0.2 of each target over the other classes, as PointCLIP's release does."""
    losses = []
    for row, own in zip(logits.log_softmax(dim=1), label.tolist(), strict=True):
        others = [k for k in range(len(row)) if k != own]
        losses.append(-0.8 * row[own] - sum(0.2 / len(others) * row[k] for k in others))
    return sum(losses) / len(losses)


def test_pointclip():
    generator = torch.Generator().manual_seed(0)
    n, views = CLASSES * SHOTS, 3
    text = normalize(torch.randn(CLASSES, WIDTH, generator=generator), dim=-1)
    features = torch.randn(n, views, WIDTH, generator=generator)
    support = Support({"global": features.unsqueeze(0)}, torch.arange(n) % CLASSES)
    inner = PointClip(
        text, 100.0, views, residual_ratio=0.6, fusion_init=0.5, dropout=0.0, label_smoothing=0.2
    )
    weight = {name: p.detach().clone().requires_grad_() for name, p in inner.named_parameters()}
    before = {name: p.detach().clone() for name, p in weight.items()}
    train_one_step(MultiView(inner, [1.0] * views), support)

    def norm(x, name):
        centred = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()
        return centred * weight[f"{name}.weight"] + weight[f"{name}.bias"]

    def layer(x, name):
        return x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]

    scaled = torch.stack([features[:, v] * weight["fusion"][v] for v in range(views)], dim=1)
    flat = norm(scaled.reshape(-1, WIDTH), "norm").reshape(n, -1)
    joint = torch.relu(norm(layer(flat, "to_global.1"), "to_global.2"))
    adapted = torch.relu(layer(torch.relu(layer(joint, "to_views.0")), "to_views.2"))
    blended = normalize(0.6 * adapted + 0.4 * features.reshape(n, -1), dim=-1)
    # The release puts the text features of all views side by side and normalises them.
    logits = 100 * blended @ normalize(text.repeat(1, views), dim=-1).T
    plain_step(list(weight.values()), logits, support.label, smoothed)
    moved = 0
    for name, own in inner.named_parameters():
        torch.testing.assert_close(own, weight[name], atol=2e-5, rtol=1e-4)
        moved += int((own - before[name]).abs().max() > 1e-5)
    assert moved == len(weight) - 2  # a bias before batch normalisation has no gradient
