import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from src.heads.calip import Calip
from src.heads.calip_fs import CalipFS
from tests.heads.plain import dot, normalized, softmax

LAYERS = ("query", "key", "value", "output")


def problem(seed, n, s, c, d):
    """Draw global, spatial and text features."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((n, d), (n, s, d), (c, d))
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def perturbed(head, seed):
    """Give every layer a random weight, as if after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return head


def applied(weight, rows):
    """`x + W x` for each row."""
    return [[x + dot(w, row) for x, w in zip(row, weight, strict=True)] for row in rows]


def plain_calip_fs(global_feature, spatial, text, visual, textual, scale, factor, beta2, beta3):
    """Logits of one image by the description of CALIP-FS, from each modality's layer weights."""
    f = normalized(global_feature)
    positions, classes = [normalized(row) for row in spatial], [normalized(row) for row in text]
    queries, keys, values = (
        [
            applied(weights[layer], rows)
            for weights, rows in ((visual, positions), (textual, classes))
        ]
        for layer in ("query", "key", "value")
    )

    def attention(asking, asked):
        rows = []
        for query in queries[asking]:
            weights = softmax([factor * dot(query, key) for key in keys[asked]])
            columns = zip(*values[asked], strict=True)
            rows.append([dot(weights, column) for column in columns])
        return rows

    columns = list(zip(*attention(0, 1), strict=True))
    pooled = [sum(column) / len(column) + max(column) for column in columns]
    (attended_visual,) = applied(visual["output"], [pooled])
    attended_text = applied(textual["output"], attention(1, 0))
    return [
        scale * (dot(f, t) + beta2 * dot(f, attended) + beta3 * dot(attended_visual, t))
        for t, attended in zip(classes, attended_text, strict=True)
    ]


def plain_attention(spatial, text, visual, textual, factor, beta2, beta3):
    """Each class's attention over the positions of one image, before and after blending."""
    positions, classes = [normalized(row) for row in spatial], [normalized(row) for row in text]

    def weights(queries, keys):
        return [softmax([factor * dot(query, key) for key in keys]) for query in queries]

    def mixed(weights, values):
        columns = list(zip(*values, strict=True))
        return [[dot(row, column) for column in columns] for row in weights]

    def over_positions(positions, classes):
        return weights(applied(textual["query"], classes), applied(visual["key"], positions))

    def blended(own, beta, attended):
        pairs = zip(own, attended, strict=True)
        return [normalized([x + beta * a for x, a in zip(*p, strict=True)]) for p in pairs]

    before = over_positions(positions, classes)
    attended_text = mixed(before, applied(visual["value"], positions))
    over_classes = weights(applied(visual["query"], positions), applied(textual["key"], classes))
    attended_visual = mixed(over_classes, applied(textual["value"], classes))
    after = over_positions(
        blended(positions, beta3, applied(visual["output"], attended_visual)),
        blended(classes, beta2, applied(textual["output"], attended_text)),
    )
    return before, after


sizes = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(2, 6), st.integers(1, 9))


@given(
    st.integers(0, 2**31),
    sizes,
    st.sampled_from([0.5, 2.0]),
    st.floats(0, 6),
    st.floats(0, 2),
    st.booleans(),
)
def test_untrained_it_is_calip(seed, shape, factor, beta2, beta3, shared):
    image, spatial, text = problem(seed, *shape)
    settings = (100.0, factor, beta2, beta3)
    expected = Calip(text, *settings)(image, spatial)
    head = CalipFS(text, *settings, shared)
    torch.testing.assert_close(head(image, spatial), expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(head.attention(spatial), Calip(text, *settings).attention(spatial))


@given(st.integers(0, 2**31), sizes, st.floats(0, 6), st.floats(0, 2), st.booleans())
def test_logits_equal_the_plain_computation(seed, shape, beta2, beta3, shared):
    image, spatial, text = problem(seed, *shape)
    head = perturbed(CalipFS(text, 20.0, 2.0, beta2, beta3, shared), seed)
    visual, textual = (
        {layer: getattr(layers, layer).weight.tolist() for layer in LAYERS}
        for layers in (head.visual_layers, head.text_layers)
    )
    expected = torch.tensor(
        [
            plain_calip_fs(f, s, text.tolist(), visual, textual, 20.0, 2.0, beta2, beta3)
            for f, s in zip(image.tolist(), spatial.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(head(image, spatial), expected)
    for value, (base, direction) in zip(
        (0.3, beta2), head.lines((0.3, beta2), image, spatial), strict=True
    ):
        head.beta2 = value
        torch.testing.assert_close(base + beta3 * direction, head(image, spatial))


@given(st.integers(0, 2**31), sizes, st.floats(0, 6), st.floats(0, 2), st.booleans())
def test_attention_equals_the_plain_computation(seed, shape, beta2, beta3, shared):
    _, spatial, text = problem(seed, *shape)
    head = perturbed(CalipFS(text, 20.0, 2.0, beta2, beta3, shared), seed)
    visual, textual = (
        {layer: getattr(layers, layer).weight.tolist() for layer in LAYERS}
        for layers in (head.visual_layers, head.text_layers)
    )
    maps = head.attention(spatial)
    for row, image in enumerate(spatial.tolist()):
        expected = plain_attention(image, text.tolist(), visual, textual, 2.0, beta2, beta3)
        for found, plain in zip(maps, expected, strict=True):
            torch.testing.assert_close(found[row].T, torch.tensor(plain, dtype=torch.float64))


def test_attention_is_a_share_of_each_position_and_without_blending_stays_what_it_was():
    _, spatial, text = problem(4, n=3, s=6, c=4, d=5)
    head = perturbed(CalipFS(text, 20.0, 2.0, 1.0, 0.3, shared=False), seed=4)
    before, after = head.attention(spatial)
    for maps in (before, after):
        torch.testing.assert_close(maps.sum(dim=1), torch.ones(3, 4, dtype=torch.float64))
    assert (before - after).abs().max() > 1e-3
    head.beta2 = head.beta3 = 0.0
    torch.testing.assert_close(*head.attention(spatial))


@pytest.mark.parametrize("shared", [False, True])
def test_exactly_the_layers_are_trained_and_a_gradient_reaches_each(shared):
    image, spatial, text = problem(0, n=6, s=4, c=3, d=5)
    head = CalipFS(text, 20.0, 2.0, 1.0, 0.3, shared)
    F.cross_entropy(head(image, spatial), torch.arange(6) % 3).backward()
    trained = list(head.parameters())
    assert len(trained) == (4 if shared else 8)
    assert all(parameter.shape == (5, 5) for parameter in trained)
    assert all(parameter.grad.abs().max() > 1e-6 for parameter in trained)
    assert not head.text.requires_grad


@pytest.mark.parametrize("shared", [False, True])
def test_shared_layers_are_the_same_for_both_modalities(shared):
    _, _, text = problem(0, n=1, s=1, c=2, d=3)
    head = CalipFS(text, 20.0, 2.0, 1.0, 0.3, shared)
    assert (head.visual_layers is head.text_layers) == shared


def test_the_first_step_of_adamw_equals_a_plain_one():
    rate, decay, epsilon = 1e-3, 0.1, 1e-8
    image, spatial, text = problem(3, n=6, s=4, c=3, d=5)
    label = torch.arange(6) % 3
    head = perturbed(CalipFS(text, 20.0, 2.0, 1.0, 0.3, shared=False), seed=3)
    before = {name: parameter.detach().clone() for name, parameter in head.named_parameters()}

    def loss_of(weights):
        return F.cross_entropy(
            torch.func.functional_call(head, weights, (image, spatial)), label
        ).item()

    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=decay, eps=epsilon)
    F.cross_entropy(head(image, spatial), label).backward()
    optimizer.step()
    for name, weight in before.items():
        gradient = torch.zeros_like(weight)
        for place in range(weight.numel()):
            step = torch.zeros(weight.numel(), dtype=weight.dtype)
            step[place] = 1e-5
            step = step.view_as(weight)
            rise = loss_of({name: weight + step}) - loss_of({name: weight - step})
            gradient.view(-1)[place] = rise / 2e-5
        # After bias correction, the first moments are the gradient and its square.
        expected = weight * (1 - rate * decay) - rate * gradient / (gradient.abs() + epsilon)
        torch.testing.assert_close(head.get_parameter(name).data, expected, atol=1e-6, rtol=0)


def test_training_learns_what_calip_cannot_tell():
    """The images lie far from every text: calip guesses, but a few steps of training do not."""
    generator = torch.Generator().manual_seed(5)
    text, prototype = torch.eye(8)[:4], torch.randn(4, 8, generator=generator)
    label = torch.arange(40) % 4
    image = prototype[label] + 0.1 * torch.randn(40, 8, generator=generator)
    spatial = image.unsqueeze(1) + 0.3 * torch.randn(40, 3, 8, generator=generator)
    head = CalipFS(text, 20.0, 2.0, 1.0, 0.3, shared=False)

    def accuracy(rows):
        return (head(image[rows], spatial[rows]).argmax(dim=1) == label[rows]).float().mean()

    support, test = slice(0, 20), slice(20, 40)
    assert accuracy(test) < 0.6
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(head(image[support], spatial[support]), label[support]).backward()
        optimizer.step()
    assert accuracy(test) > 0.9


def test_one_position_and_two_classes_are_enough():
    image, spatial, text = problem(2, n=3, s=1, c=2, d=4)
    head = perturbed(CalipFS(text, 20.0, 2.0, 1.0, 0.3, shared=False), seed=2)
    logits = head(image, spatial)
    assert logits.shape == (3, 2)
    assert logits.isfinite().all()
    # A class's attention over one position is 1, so the text term favours no class.
    _, text_term, _ = head.terms(image, spatial)
    torch.testing.assert_close(text_term[:, 0], text_term[:, 1])
