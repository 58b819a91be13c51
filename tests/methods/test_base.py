import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from src.heads.zero_shot import ZeroShot
from src.methods.base import Method

CLASSES, WIDTH = 4, 6


def figures_of(image, label, text, batch_size, **settings):
    batches = [
        {"global": i, "label": y}
        for i, y in zip(image.split(batch_size), label.split(batch_size), strict=True)
    ]
    method = Method(ZeroShot(text, 10.0), CLASSES, **settings)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    (figures,) = trainer.test(method, DataLoader(batches, batch_size=None), verbose=False)
    return figures, method


@pytest.mark.parametrize("batch_size", [7, 50])
def test_figures_equal_their_plain_definitions(batch_size):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(50, WIDTH, generator=generator)
    text = torch.randn(CLASSES, WIDTH, generator=generator)
    label = torch.randint(CLASSES - 1, (50,), generator=generator)  # one class has no image
    figures, method = figures_of(image, label, text, batch_size, keep_predictions=True)

    probability = ZeroShot(text, 10.0)(image).softmax(dim=1)
    confidence, predicted = probability.max(dim=1)
    right = (predicted == label).double()
    assert figures["accuracy"] == pytest.approx(100 * right.mean().item())
    per_class = [right[label == c].mean().item() for c in range(CLASSES - 1)]
    expected = 100 * sum(per_class) / len(per_class)
    assert figures["mean_class_accuracy"] == pytest.approx(expected, rel=1e-5)
    ece = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gap = confidence[inside].double().mean() - right[inside].mean()
            ece += inside.double().mean().item() * abs(gap.item())
    assert figures["ece"] == pytest.approx(ece, abs=1e-5)
    assert torch.equal(method.predictions["label"], label)
    torch.testing.assert_close(method.predictions["logits"], ZeroShot(text, 10.0)(image))


def test_logits_are_kept_only_on_request():
    _, method = figures_of(
        torch.ones(3, WIDTH), torch.zeros(3).long(), torch.eye(CLASSES, WIDTH), 2
    )
    assert method.predictions == {}
