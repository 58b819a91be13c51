import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from src.errors import UserError
from src.heads.clap import Clap
from src.heads.support import Support
from tests.heads import plain
from tests.heads.fit import build_head, configuration, fit
from tests.methods.test_first_step import plain_step, train_one_step
from tests.shared import needs_shared

SCALE = 20.0


def problem(seed, n=5, c=3, d=6, shots=2, crops=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes):
        return torch.randn(*sizes, generator=generator, dtype=dtype)

    label = torch.arange(c * shots) % c
    return 10 * draw(c, d), draw(n, d), Support({"global": draw(crops, c * shots, d)}, label)


def moved(head, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight += torch.randn(head.weight.shape, generator=generator, dtype=torch.float64)
    return head


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 3))
def test_equals_the_plain_computation(seed, crops, shots):
    text, image, support = problem(seed, crops=crops, shots=shots)
    head = Clap(text, SCALE)
    head.prepare(support)
    moved(head)
    logits = [plain.zero_shot(row, head.weight.tolist(), SCALE) for row in image.tolist()]
    torch.testing.assert_close(head(image), torch.tensor(logits, dtype=torch.float64))

    multiplier = []
    for c in range(len(text)):
        probabilities = [
            plain.softmax(plain.zero_shot(row, text.tolist(), SCALE))[c]
            for crop in support.features["global"].tolist()
            for row, label in zip(crop, support.label.tolist(), strict=True)
            if label == c
        ]
        multiplier.append(sum(probabilities) / len(probabilities))
    label = torch.arange(len(image)) % len(text)
    penalty = sum(
        weight * sum((w - t) ** 2 for w, t in zip(own, start, strict=True))
        for weight, own, start in zip(multiplier, head.weight.tolist(), text.tolist(), strict=True)
    ) / len(text)
    expected = cross_entropy(head(image), label) + penalty
    torch.testing.assert_close(head.loss(head(image), label), expected)


def test_zs_lp_has_no_constraint():
    text, image, support = problem(0)
    head = Clap(text, SCALE, constraint="none")
    head.prepare(support)
    moved(head)
    label = torch.arange(len(image)) % len(text)
    logits = head(image)
    torch.testing.assert_close(head.loss(logits, label), cross_entropy(logits, label))
    assert configuration("zs_lp").method.head.constraint == "none"
    assert configuration("clap").method.head.constraint == "l2"


def test_another_constraint_is_refused():
    with pytest.raises(UserError, match=r"method\.head\.constraint=l1 is unknown"):
        Clap(torch.eye(3), SCALE, constraint="l1")


def test_the_multipliers_are_those_of_float16_crops_of_unequal_classes():
    text, _, support = problem(0, c=3, shots=3, dtype=torch.float32)
    label = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    crops = support.features["global"].half()
    head = Clap(text, SCALE)
    head.prepare(Support({"global": crops}, label))
    f = normalize(crops.float(), dim=-1)
    p = (SCALE * f @ normalize(text, dim=-1).T).softmax(dim=-1)
    expected = torch.stack([p[:, label == c, c].mean() for c in range(3)])
    torch.testing.assert_close(head.multiplier, expected)


@pytest.mark.parametrize("constraint", ["l2", "none"])
def test_the_first_step_is_that_of_plain_torch(constraint):
    text, _, support = problem(0, dtype=torch.float32)
    head = Clap(text, SCALE, constraint)
    head.prepare(support)
    weight = text.clone().requires_grad_()
    train_one_step(head, support)
    logits = SCALE * normalize(support.features["global"][0], dim=-1) @ normalize(weight, dim=-1).T
    (expected,) = plain_step([weight], logits, support.label)
    torch.testing.assert_close(head.weight, expected, atol=1e-6, rtol=1e-5)


@needs_shared
@pytest.mark.parametrize(
    ("method", "shots", "accuracy"),
    [
        ("zs_lp", 1, 99.00),
        ("zs_lp", 4, 99.25),
        ("zs_lp", 16, 99.63),
        ("clap", 1, 98.75),
        ("clap", 4, 99.13),
        ("clap", 16, 99.25),
    ],
)
def test_real_clip_features_give_the_known_accuracies(lvis, method, shots, accuracy):
    """An independent computation gave these. From normalised text, ZS-LP has 84.56 at 1 shot."""
    text, split, support = lvis
    image, label = split("test")
    cfg, images = configuration(method, shots), support(shots)
    head = build_head(cfg, {"raw_text": text, "logit_scale": 100.0}, images)
    fit(cfg, head, images)
    found = 100 * (head(image).argmax(dim=1) == label).double().mean().item()
    assert found == pytest.approx(accuracy, abs=0.5)
