import math

import pytest
import torch

from src.errors import UserError
from src.heads import plot
from src.heads.plot import Plot, transport
from src.heads.support import Support
from tests.heads import plain
from tests.heads.test_coop import DEPTH, tower_of
from tests.methods.test_first_step import plain_step, train_one_step

SCALE, CLASSES, POSITIONS = 5.0, 4, 6


def made(n_prompts=3, n_context=2, regularisation=0.1, seed=0):
    tower, names = tower_of()
    torch.manual_seed(seed)
    head = Plot(tower, names, SCALE, n_prompts, n_context, regularisation)
    head.context.data *= 30  # so that the prompts differ as those of a trained context do
    return head, tower


def positions(n=5, seed=1):
    return torch.randn(n, POSITIONS, DEPTH, generator=torch.Generator().manual_seed(seed))


def similarities(n=5, s=POSITIONS, k=3, c=CLASSES, seed=3):
    return torch.rand(n, s, k, c, generator=torch.Generator().manual_seed(seed)) * 0.6 - 0.1


def texts_of(head, tower, context):
    """Compute the text features of one class after the other under each context, `[c][k]`."""
    return [
        [tower.of_class(torch.cat([head.start, one, rest]), end) for one in context]
        for rest, end in zip(head.suffixes, head.ends, strict=True)
    ]


def plain_plan(similarity, regularisation):
    """Sinkhorn's plan of one image and one class; `similarity` is a list of rows, `[s][k]`."""
    s, k = len(similarity), len(similarity[0])
    kernel = [[math.exp(-(1 - x) / regularisation) for x in row] for row in similarity]
    u, v = [1.0] * s, [1.0] * k
    for _ in range(100):
        before = u
        u = [1 / s / plain.dot(row, v) for row in kernel]
        v = [1 / k / plain.dot(column, u) for column in zip(*kernel, strict=True)]
        if sum(abs(x - y) for x, y in zip(u, before, strict=True)) / s < 1e-2:
            break
    return [[u[i] * kernel[i][j] * v[j] for j in range(k)] for i in range(s)]


def plain_logits(spatial, texts, regularisation):
    """Logits of one image; `texts[c]` are the features of the prompts of class c."""
    logits = []
    for prompts in texts:
        similarity = [
            [plain.dot(plain.normalized(f), plain.normalized(t)) for t in prompts] for f in spatial
        ]
        plan = plain_plan(similarity, regularisation)
        logits.append(SCALE * sum(map(plain.dot, plan, similarity)))
    return logits


@pytest.mark.parametrize("regularisation", [0.05, 0.1, 1.0])
def test_the_plan_is_the_plain_computation(regularisation):
    similarity = similarities()
    plan = transport(similarity, regularisation)
    for image in range(len(similarity)):
        for c in range(CLASSES):
            expected = plain_plan(similarity[image, :, :, c].tolist(), regularisation)
            torch.testing.assert_close(
                plan[image, :, :, c], torch.tensor(expected), atol=1e-5, rtol=1e-4
            )


def test_the_plan_has_uniform_margins():
    plan = transport(similarities(n=3, s=49, k=4, c=7), 0.1)
    assert (plan > 0).all()
    torch.testing.assert_close(plan.sum(dim=1), torch.full((3, 4, 7), 1 / 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(plan.sum(dim=2), torch.full((3, 49, 7), 1 / 49), atol=1e-4, rtol=0)


def test_iterations_end_at_a_limit(monkeypatch):
    monkeypatch.setattr(plot, "ITERATIONS", 1)
    similarity = similarities(k=2)
    kernel = ((similarity - 1) / 0.1).exp()
    rows = kernel / kernel.sum(dim=2, keepdim=True)
    expected = rows / rows.sum(dim=1, keepdim=True) / 2
    torch.testing.assert_close(transport(similarity, 0.1), expected)


@pytest.mark.parametrize("n_prompts", [1, 3])
@pytest.mark.parametrize("compared", [1, 2 * POSITIONS * 3 * CLASSES, 1 << 21])
def test_logits_are_the_plain_computation(monkeypatch, n_prompts, compared):
    monkeypatch.setattr(plot, "COMPARED_PER_PASS", compared)
    head, tower = made(n_prompts)
    texts = [
        [t.tolist() for t in prompts] for prompts in texts_of(head, tower, head.context.detach())
    ]
    expected = [plain_logits(image, texts, 0.1) for image in positions().tolist()]
    torch.testing.assert_close(head(positions()), torch.tensor(expected), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head.eval()(positions()), head.train()(positions()))


def test_an_image_does_not_depend_on_the_others():
    head, _ = made()
    together = head.eval()(positions())
    for image, logits in zip(positions(), together, strict=True):
        torch.testing.assert_close(head(image.unsqueeze(0))[0], logits, atol=1e-5, rtol=1e-5)


def test_a_single_prompt_meets_the_mean_of_the_positions():
    head, _ = made(n_prompts=1)
    mean = torch.nn.functional.normalize(positions(), dim=-1).mean(dim=1)
    torch.testing.assert_close(head(positions()), SCALE * mean @ head.class_text()[0].T)


def test_the_gradient_goes_through_the_similarities_alone():
    head, _ = made()
    weight = torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(5))
    (head(positions()) * weight).sum().backward()
    text, spatial = head.class_text(), torch.nn.functional.normalize(positions(), dim=-1)
    similarity = torch.einsum("nsd,kcd->nskc", spatial, text)
    constant = transport(similarity.detach(), 0.1)
    logits = SCALE * (constant * similarity).sum(dim=(1, 2))
    (expected,) = torch.autograd.grad((logits * weight).sum(), head.context)
    torch.testing.assert_close(head.context.grad, expected, atol=1e-5, rtol=1e-4)
    assert (head.context.grad.norm(dim=-1) > 0).all()


def test_the_first_step_is_that_of_a_plain_loop():
    head, tower = made()
    label = torch.arange(8) % CLASSES
    features = positions(8)
    context = head.context.detach().clone().requires_grad_()
    train_one_step(head, Support({"spatial": features.unsqueeze(0)}, label))
    rows = []
    for image in features:
        logits = []
        for prompts in texts_of(head, tower, context):
            similarity = torch.stack([image @ (t / t.norm()) for t in prompts], dim=1)
            similarity = similarity / image.norm(dim=1, keepdim=True)
            plan = torch.tensor(plain_plan(similarity.tolist(), 0.1))
            logits.append(SCALE * (plan * similarity).sum())
        rows.append(torch.stack(logits))
    (expected,) = plain_step([context], torch.stack(rows), label)
    torch.testing.assert_close(head.context, expected, atol=1e-6, rtol=1e-5)


def test_each_prompt_of_a_class_draws_a_context_of_its_own():
    tower, names = tower_of()
    torch.manual_seed(0)
    context = Plot(tower, names, SCALE, 4, 3, 0.1).context
    torch.manual_seed(0)
    assert torch.equal(context, 0.02 * torch.randn(4, 3, 6))


def test_a_checkpoint_holds_only_the_contexts():
    head, _ = made()
    assert list(head.state_dict()) == ["context"]


def test_evaluation_computes_the_text_once_for_each_context():
    head, tower = made()
    head.eval()
    for _ in range(3):
        assert not head(positions()).requires_grad
    assert tower.calls == 1
    head.context.data.add_(1.0)
    head(positions())
    assert tower.calls == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_prompts": 0}, "n_prompts=0: give 1 or more"),
        ({"regularisation": 0.01}, r"regularisation=0\.01 is too small for float32: give 0\.03"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        made(**settings)


def test_the_smallest_regularisation_stays_finite_at_the_ends_of_the_similarities():
    similarity = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 3, 1)
    for signed in (similarity, -similarity, similarity.abs(), -similarity.abs()):
        assert transport(signed, plot.LEAST_REGULARISATION).isfinite().all()
