import pytest
import torch

from src.config import compose
from src.errors import UserError
from src.heads.coop import CoOp
from src.heads.multi_view import MultiView
from src.heads.prograd import ProGrad
from src.heads.support import Support
from src.heads.zero_shot import ZeroShot
from tests.heads.test_coop import DEPTH, images, tower_of
from tests.heads.test_kgcoop import texts_of
from tests.methods.test_first_step import train_one_step

SCALE, CLASSES = 5.0, 4


def made(projection=1.0, temperature=1.0):
    tower, names = tower_of()
    text = torch.randn(CLASSES, DEPTH, generator=torch.Generator().manual_seed(2))
    return ProGrad(tower, names, SCALE, text, 3, "0.5 -1 2", projection, temperature), tower, text


def unit(rows):
    return torch.stack([row / row.norm() for row in rows])


def plain_gradients(head, tower, text, features, label, temperature=1.0, views=1):
    """Compute g_a and g_b one image after the other, each by its own pass."""
    gradients = []
    for of_task in (True, False):
        context = head.context.detach().clone().requires_grad_()
        learned = unit(texts_of(head, tower, context))
        losses = []
        for cloud, own in zip(features.split(views), label.tolist(), strict=True):
            logits = sum(SCALE * learned @ (f / f.norm()) for f in cloud) / views
            known = sum(SCALE * unit(text) @ (f / f.norm()) for f in cloud) / views
            if of_task:
                losses.append(-logits.log_softmax(dim=0)[own])
            else:
                target = (known / temperature).softmax(dim=0)
                log_learned = (logits / temperature).log_softmax(dim=0)
                losses.append(-(target * log_learned).sum() * temperature**2)
        (sum(losses) / len(losses)).backward()
        gradients.append(context.grad)
    return gradients


def labels(head, tower, text, features, conflict, **others):
    """Find labels whose gradient opposes that of CLIP's predictions, or does not."""
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        label = torch.randint(
            CLASSES, (len(features) // others.get("views", 1),), generator=generator
        )
        a, b = plain_gradients(head, tower, text, features, label, **others)
        if ((a * b).sum() < 0) == conflict:
            return label, a, b
    raise AssertionError("no such labels")


def projected(a, b, projection):
    agreement = float((a * b).sum())
    return a - projection * min(agreement, 0.0) / float((b * b).sum()) * b


@pytest.mark.parametrize("conflict", [True, False])
@pytest.mark.parametrize(("projection", "temperature"), [(1.0, 1.0), (0.8, 2.0)])
def test_the_gradient_is_the_plain_projection(conflict, projection, temperature):
    head, tower, text = made(projection, temperature)
    label, a, b = labels(head, tower, text, images(), conflict, temperature=temperature)
    loss = head.loss(head(images()), label)
    loss.backward()
    torch.testing.assert_close(head.context.grad, projected(a, b, projection), atol=1e-5, rtol=1e-4)
    logits = head.eval()(images())
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, label))


def test_a_whole_projection_leaves_nothing_against_clip():
    head, tower, text = made()
    label, _, b = labels(head, tower, text, images(), conflict=True)
    head.loss(head(images()), label).backward()
    cosine = torch.cosine_similarity(head.context.grad.flatten(), b.flatten(), dim=0)
    assert cosine.abs() < 1e-5
    assert head.context.grad.norm() > 0.1


def test_without_a_projection_it_is_coop():
    head, tower, text = made(projection=0.0)
    coop = CoOp(tower, [str(label) for label in range(CLASSES)], SCALE, 3, "0.5 -1 2")
    label, *_ = labels(head, tower, text, images(), conflict=True)
    for one in (head, coop):
        one.loss(one(images()), label).backward()
    torch.testing.assert_close(head.context.grad, coop.context.grad)
    assert torch.equal(head.eval()(images()), coop.eval()(images()))


def test_the_first_step_is_that_of_a_plain_loop():
    head, tower, text = made()
    features = images(8)
    label, a, b = labels(head, tower, text, features, conflict=True)
    context = head.context.detach().clone().requires_grad_()
    context.grad = projected(a, b, 1.0)
    train_one_step(head, Support({"global": features.unsqueeze(0)}, label))
    torch.optim.AdamW([context], lr=1e-3, eps=1e-4).step()
    torch.testing.assert_close(head.context, context, atol=1e-6, rtol=1e-5)


def test_depth_maps_are_summed_before_the_two_are_compared():
    head, tower, text = made()
    clouds = images(8).view(4, 2, DEPTH)
    label, a, b = labels(head, tower, text, images(8), conflict=True, views=2)
    several = MultiView(head, [1.0, 1.0])
    several.loss(several(clouds), label).backward()
    torch.testing.assert_close(head.context.grad, projected(a, b, 1.0), atol=1e-5, rtol=1e-4)


def test_evaluation_gives_and_measures_the_learned_logits_only():
    head, _, text = made()
    label = torch.arange(7) % CLASSES
    both = head(images())
    head.eval()
    with torch.no_grad():
        logits = head(images())
        loss = head.loss(logits, label)
    torch.testing.assert_close(both, torch.cat([logits, ZeroShot(text, SCALE)(images())], dim=1))
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, label))


def test_a_checkpoint_holds_the_context_and_the_hand_made_texts():
    head, *_ = made()
    assert list(head.state_dict()) == ["context", "zero_shot_text"]


def test_a_temperature_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"method\.head\.temperature=0\.0: give a number above 0"):
        made(temperature=0.0)


@pytest.mark.parametrize(
    ("dataset", "shots", "words", "projection"),
    [
        ("dtd", 4, "a texture of", 1.0),
        ("dtd", 8, "a texture of", 0.8),
        ("food101", 16, "a type of food, a photo of", 1.0),
        ("digits", 16, "a photo of a", 1.0),
    ],
)
def test_published_words_and_projections_belong_to_their_datasets(
    dataset, shots, words, projection
):
    head = compose(["method=prograd", f"dataset={dataset}", f"shots={shots}"]).method.head
    assert (head.initial_words, head.projection) == (words, projection)
