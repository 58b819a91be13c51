import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.heads.prolip import ProLip
from src.heads.support import Support
from src.heads.zero_shot import ZeroShot
from tests.heads import fit, plain

CLASSES, WIDTH, WIDE, SHOTS, CROPS = 3, 6, 9, 4, 2


def problem(seed, ridge=0.5, n=4):
    generator = torch.Generator().manual_seed(seed)
    text, image, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((CLASSES, WIDTH), (n, WIDE), (WIDE, WIDTH), (WIDTH,))
    )
    return text, image, weight, bias, ProLip(text, 20.0, weight, bias, ridge)


def moved(head):
    with torch.no_grad():
        head.weight.add_(0.3 * torch.randn_like(head.weight))
    return head


@given(st.integers(0, 2**31))
def test_equals_the_plain_computation(seed):
    text, image, _, bias, head = problem(seed)
    weight = moved(head).weight.tolist()
    for row, found in zip(image.tolist(), head(image).tolist(), strict=True):
        feature = [
            sum(x * line[k] for x, line in zip(row, weight, strict=True)) + bias[k].item()
            for k in range(WIDTH)
        ]
        assert found == pytest.approx(plain.zero_shot(feature, text.tolist(), 20.0), abs=1e-6)


def test_it_starts_at_clip():
    text, image, weight, bias, head = problem(0)
    torch.testing.assert_close(head(image), ZeroShot(text, 20.0)(image @ weight + bias))
    logits = head(image)
    label = torch.tensor([0, 2, 1, 1])
    torch.testing.assert_close(head.loss(logits, label), F.cross_entropy(logits, label))


@pytest.mark.parametrize("ridge", [0.0, 0.25, None])
def test_the_loss_holds_the_weight_near_clip_s(ridge):
    _, image, start, _, head = problem(1, ridge)
    labels = [0, 1, 2, 1, 1]
    head.prepare(Support({"unprojected": torch.zeros(2, 5, WIDE)}, torch.tensor(labels)))
    logits, label = moved(head)(image), torch.tensor([0, 1, 2, 1])
    distance = sum(
        (new - old) ** 2
        for new_row, old_row in zip(head.weight.tolist(), start.tolist(), strict=True)
        for new, old in zip(new_row, old_row, strict=True)
    )
    own = [
        -math.log(plain.softmax(row)[c])
        for row, c in zip(logits.tolist(), [0, 1, 2, 1], strict=True)
    ]
    expected = sum(own) / 4 + (1 / 3 if ridge is None else ridge) * distance
    assert head.loss(logits, label).item() == pytest.approx(expected)


def test_only_the_weight_is_trained_and_what_is_given_stays():
    _, image, weight, bias, head = problem(2)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "weight": (WIDE, WIDTH)
    }
    assert set(head.state_dict()) == {"text", "bias", "weight"}
    before = weight.clone(), bias.clone()
    head.loss(moved(head)(image), torch.tensor([0, 1, 2, 0])).backward()
    torch.optim.SGD(head.parameters(), lr=1.0).step()
    assert torch.equal(weight, before[0])
    assert torch.equal(bias, before[1])
    assert torch.equal(head.start, before[0])


def test_a_negative_ridge_and_a_loss_without_a_support_set_are_refused():
    with pytest.raises(UserError, match=r"method\.head\.ridge=-1\.0 is negative"):
        problem(0, ridge=-1.0)
    _, image, _, _, head = problem(0, ridge=None)
    with pytest.raises(RuntimeError, match="prepare"):
        head.loss(head(image), torch.tensor([0, 1, 2, 0]))


def test_a_run_takes_the_steps_of_a_plain_loop():
    """Adam with all images in each step, and in each the next crop."""
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(CLASSES, WIDTH, generator=generator)
    crops = torch.randn(CROPS, CLASSES * SHOTS, WIDE, generator=generator)
    start, bias = (torch.randn(*shape, generator=generator) for shape in ((WIDE, WIDTH), (WIDTH,)))
    label = torch.arange(CLASSES * SHOTS) % CLASSES
    cfg = fit.configuration("prolip", overrides=["method.training.epochs=3"])
    support = Support({"unprojected": crops}, label)
    given = {"text": text, "logit_scale": 20.0, "projection": start, "projection_bias": bias}
    head = fit.fit(cfg, fit.build_head(cfg, given, support), support)

    weight = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.001, eps=1e-4)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.001 * (1 + math.cos(math.pi * step / 3)) / 2
        feature = crops[step % CROPS] @ weight + bias
        logits = 20 * F.normalize(feature, dim=-1) @ F.normalize(text, dim=-1).T
        loss = F.cross_entropy(logits, label) + (weight - start).square().sum() / SHOTS
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(head.weight, weight, atol=1e-6, rtol=1e-5)
    assert (head.weight - start).abs().max() > 1e-3
