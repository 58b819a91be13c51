import copy
import math

import pytest
import torch

from src.heads.coop import CoOp
from src.heads.kgcoop import KgCoOp
from src.heads.support import Support
from src.heads.zero_shot import ZeroShot
from tests.heads import plain
from tests.heads.test_coop import DEPTH, images, tower_of
from tests.methods.test_first_step import plain_step, train_one_step

SCALE, WEIGHT, CLASSES = 5.0, 8.0, 4


def made(weight=WEIGHT):
    tower, names = tower_of()
    text = torch.randn(CLASSES, DEPTH, generator=torch.Generator().manual_seed(2))
    return KgCoOp(tower, names, SCALE, text, 3, "0.5 -1 2", weight), tower, text


def texts_of(head, tower, context):
    """Compute the text feature of one class after the other."""
    rows = []
    for rest, end in zip(head.suffixes, head.ends, strict=True):
        rows.append(tower.of_class(torch.cat([head.start, context, rest]), end))
    return rows


def test_the_loss_is_the_plain_computation():
    head, tower, text = made()
    learned = [row.tolist() for row in texts_of(head, tower, head.context.detach())]
    label = [0, 2, 1, 3, 3, 0, 2]
    expected = 0.0
    for row, own in zip(images().tolist(), label, strict=True):
        probability = plain.softmax(plain.zero_shot(row, learned, SCALE))
        expected -= math.log(probability[own]) / len(label)
    for t, r in zip(learned, text.tolist(), strict=True):
        cosine = plain.dot(plain.normalized(t), plain.normalized(r))
        expected += WEIGHT * (1 - cosine) / CLASSES
    for mode in (True, False):
        head.train(mode)
        loss = head.loss(head(images()), torch.tensor(label))
        assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_the_first_step_is_that_of_a_plain_loop():
    head, tower, text = made()
    label = torch.arange(8) % CLASSES
    features = images(8)
    context = head.context.detach().clone().requires_grad_()
    train_one_step(head, Support({"global": features.unsqueeze(0)}, label))
    learned = torch.stack([row / row.norm() for row in texts_of(head, tower, context)])
    known = text / text.norm(dim=1, keepdim=True)
    logits = SCALE * (features / features.norm(dim=1, keepdim=True)) @ learned.T

    def loss(logits, label):
        chosen = logits.log_softmax(dim=1)[range(len(label)), label]
        return -chosen.mean() + WEIGHT * (1 - (learned * known).sum(dim=1).mean())

    (expected,) = plain_step([context], logits, label, loss)
    torch.testing.assert_close(head.context, expected, atol=1e-6, rtol=1e-5)


def test_without_a_weight_it_is_coop():
    head, tower, _ = made(weight=0.0)
    coop = CoOp(tower, [str(label) for label in range(CLASSES)], SCALE, 3, "0.5 -1 2")
    label = torch.arange(7) % CLASSES
    for one in (head, coop):
        one.loss(one(images()), label).backward()
    assert torch.equal(head.context.grad, coop.context.grad)


def test_a_training_step_goes_through_the_tower_once():
    head, tower, _ = made()
    for _ in range(2):
        calls = tower.calls
        head.loss(head(images()), torch.zeros(7, dtype=torch.int64)).backward()
        assert tower.calls == calls + 1
    copy.deepcopy(head)  # Nothing of the step is left behind, which could not be copied.


def test_a_checkpoint_holds_the_context_and_the_hand_made_texts():
    head, *_ = made()
    assert list(head.state_dict()) == ["context", "reference"]
    trained = [name for name, value in head.named_parameters() if value.requires_grad]
    assert trained == ["context"]


def test_with_the_words_of_the_prompts_it_begins_at_zero_shot_clip():
    from src.clip.model import FrozenClip
    from src.clip.text_tower import TextTower

    clip = FrozenClip.load("local-dir:src/clip/tiny", None)
    text = clip.encode_text([[f"a photo of a {name}."] for name in "aqz"]).text
    head = KgCoOp(TextTower(clip), ["a", "q", "z"], clip.logit_scale, text, 4, "a photo of a", 8.0)
    features = torch.randn(4, text.shape[1], generator=torch.Generator().manual_seed(0))
    expected = ZeroShot(text, clip.logit_scale)(features)
    label = torch.tensor([0, 1, 2, 0])
    logits = head(features)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)
    cross_entropy = CoOp.loss(head, logits, label)
    torch.testing.assert_close(head.loss(logits, label), cross_entropy, atol=1e-5, rtol=0)
