import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from src.heads.ss_text import SsText
from src.heads.support import Support
from tests.heads import plain
from tests.shared import needs_shared


def problem(seed, n=5, c=4, d=6, images=7, views=2):
    """Draw features; the classes of the support images are random, and some may have none."""
    generator = torch.Generator().manual_seed(seed)
    text, image, support = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((c, d), (n, d), (views, images, d))
    )
    label = torch.randint(c, (images,), generator=generator)
    return 10 * text, Support({"global": support}, label), image


def prepared(text, support, plus, logit_scale=20.0):
    head = SsText(text, logit_scale, plus)
    head.prepare(support)
    return head


def plain_weight(text, support, plus, scale):
    views, label = support.features["global"].tolist(), support.label.tolist()
    crops = [zip(*own, strict=True) for own in zip(*views, strict=True)]
    x = [plain.normalized([sum(column) / len(column) for column in own]) for own in crops]
    weight = []
    for k, own_text in enumerate(text):
        own = [feature for feature, one in zip(x, label, strict=True) if one == k]
        if not own:
            weight.append(list(own_text))
            continue
        pull = max(1 / (len(own) if plus else len(x)), 1e-3)
        weight.append(
            [
                scale * sum(column) / (len(x) * pull) + t
                for column, t in zip(zip(*own, strict=True), own_text, strict=True)
            ]
        )
    if plus:
        mean = [sum(column) / len(weight) for column in zip(*weight, strict=True)]
        apart = [
            plain.normalized([2 * w - m for w, m in zip(row, mean, strict=True)]) for row in weight
        ]
        weight = [
            [w - a for w, a in zip(*rows, strict=True)] for rows in zip(weight, apart, strict=True)
        ]
    return weight


@given(st.integers(0, 2**31), st.booleans(), st.integers(1, 9))
def test_equals_the_plain_computation(seed, plus, images):
    text, support, image = problem(seed, images=images)
    weight = plain_weight(text.tolist(), support, plus, 20.0)
    expected = [plain.zero_shot(feature, weight, 20.0) for feature in image.tolist()]
    found = prepared(text, support, plus)(image)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("plus", [False, True])
def test_the_text_never_weighs_less_than_a_thousandth(plus):
    text, support, _ = problem(0, c=2, images=1)
    many = Support(
        {"global": support.features["global"].repeat(1, 3000, 1)}, torch.zeros(3000).long()
    )
    x = normalize(support.features["global"].mean(dim=0), dim=-1)
    weight = 20 * 3000 * x / (3000 * 1e-3) + text[:1]
    head = prepared(text, many, plus)
    if plus:
        mean = (weight + text[1:]) / 2
        weight = weight - normalize(2 * weight - mean, dim=-1)
    torch.testing.assert_close(head.weight[:1], weight)


def test_a_class_without_images_keeps_its_text():
    text, support, _ = problem(1, images=2)
    missing = sorted({0, 1, 2, 3} - set(support.label.tolist()))
    assert missing
    assert torch.equal(prepared(text, support, plus=False).weight[missing], text[missing])


@needs_shared
@pytest.mark.parametrize(
    ("plus", "accuracies"),
    [
        (False, (85.68, 91.16, 96.51, 92.90, 95.39)),
        (True, (88.79, 93.28, 96.89, 93.03, 95.64)),
    ],
)
def test_real_clip_features_give_the_known_accuracies(lvis, plus, accuracies):
    """An independent computation gave these, from text of length 1."""
    text, split, support = lvis
    image, label = split("test")
    for shots, accuracy in zip((1, 2, 4, 8, 16), accuracies, strict=True):
        head = prepared(normalize(text, dim=-1), support(shots), plus, logit_scale=100.0)
        found = 100 * (head(image).argmax(dim=1) == label).double().mean().item()
        assert found == pytest.approx(accuracy, abs=0.13), shots
