import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from src.errors import UserError
from src.heads.coop import CoOp
from src.heads.zero_shot import ZeroShot
from tests.heads import plain

WIDTH, DEPTH = 6, 5


class Tower(nn.Module):
    """Stands for the text tower: weighs the class's tokens, up to its end, by their places."""

    def __init__(self, embeddings, ends):
        super().__init__()
        generator = torch.Generator().manual_seed(9)
        weight = torch.randn(WIDTH, DEPTH, generator=generator)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.embeddings, self.ends = embeddings, ends
        self.calls = 0

    def embed(self, class_names, n_context):
        rows = [int(name) for name in class_names]
        return self.embeddings[rows], self.ends[rows]

    def embed_words(self, words):
        return torch.tensor([[float(word)] * WIDTH for word in words.split()]).reshape(-1, WIDTH)

    def forward(self, prefix, suffixes, ends):
        self.calls += 1
        return self.texts(prefix, suffixes, ends)

    def texts(self, prefix, suffixes, ends):
        if prefix.dim() == 3:
            return torch.stack([self.texts(one, suffixes, ends) for one in prefix])
        whole = torch.cat([prefix.expand(len(ends), -1, -1), suffixes], dim=1)
        return torch.stack(
            [self.of_class(tokens, end) for tokens, end in zip(whole, ends, strict=True)]
        )

    def of_class(self, tokens, end):
        place = torch.arange(1, int(end) + 2, dtype=tokens.dtype).unsqueeze(1)
        return (place * tokens[: end + 1]).sin().sum(dim=0) @ self.weight


def tower_of(ends=(6, 5, 7, 5), seed=0):
    """Make a tower, and the names of as many classes as there are ends."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(len(ends), max(ends) + 1, WIDTH, generator=generator)
    embeddings[:, 0] = embeddings[0, 0].clone()  # every prompt begins with the start token
    tower = Tower(embeddings, torch.tensor(ends))
    return tower, [str(label) for label in range(len(ends))]


def made(n_context=3, ends=(6, 5, 7, 5), seed=0, logit_scale=20.0):
    tower, names = tower_of(ends, seed)
    torch.manual_seed(seed)
    return CoOp(tower, names, logit_scale, n_context), tower, tower.embeddings


def images(n=7, seed=1):
    return torch.randn(n, DEPTH, generator=torch.Generator().manual_seed(seed))


@given(
    st.integers(1, 5),
    st.lists(st.integers(6, 9), min_size=1, max_size=5),
    st.integers(0, 2**31),
    st.sampled_from([1.0, 100.0]),
)
def test_logits_are_the_plain_computation(n_context, ends, seed, logit_scale):
    head, tower, embeddings = made(n_context, ends, seed, logit_scale)
    prompts = embeddings.clone()
    prompts[:, 1 : 1 + n_context] = head.context.detach()
    text = [tower.of_class(*prompt).tolist() for prompt in zip(prompts, head.ends, strict=True)]
    expected = [plain.zero_shot(row, text, logit_scale) for row in images().tolist()]
    torch.testing.assert_close(head(images()), torch.tensor(expected), atol=1e-3, rtol=1e-4)


def test_logits_are_in_the_order_of_the_classes():
    head, tower, _ = made()
    order = [2, 0, 3, 1]
    other = CoOp(tower, [str(label) for label in order], 20.0, n_context=3)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other(images()), head(images())[:, order])


def test_only_the_context_is_trained():
    head, tower, _ = made()
    trained = [name for name, value in head.named_parameters() if value.requires_grad]
    assert trained == ["context"]
    nn.functional.cross_entropy(head(images(4)), torch.arange(4)).backward()
    assert (head.context.grad.norm(dim=1) > 0).all()
    assert tower.weight.grad is None


def test_each_seed_draws_another_context_of_small_numbers():
    first, again, other = (made(seed=seed)[0].context for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    tower = Tower(torch.zeros(2, 19, 512), torch.tensor([18, 18]))
    context = CoOp(tower, ["0", "1"], 1.0, 16).context
    assert context.shape == (16, 512)
    assert context.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(context.mean().item()) < 1e-3


def test_words_end_the_context_behind_zeros():
    tower, names = tower_of()
    context = CoOp(tower, names, 1.0, 4, initial_words="0.5 2").context
    expected = torch.tensor([0.0, 0.0, 0.5, 2.0]).unsqueeze(1).expand(4, WIDTH)
    assert torch.equal(context, expected)
    with pytest.raises(UserError, match=r"initial_words='1 2 3' has 3 tokens.*n_context=2 vectors"):
        CoOp(tower, names, 1.0, 2, initial_words="1 2 3")


def test_a_checkpoint_holds_only_the_context_and_restores_the_logits():
    head, *_ = made()
    head.context.data.add_(1.0)
    state = head.state_dict()
    assert list(state) == ["context"]
    restored, *_ = made()
    restored.eval()
    before = restored(images())
    restored.load_state_dict(state)
    assert not torch.equal(restored(images()), before)
    assert torch.equal(restored(images()), head(images()))


def test_evaluation_computes_the_text_once_for_each_context():
    head, tower, _ = made()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    seen = []
    for _ in range(3):
        head.train()
        fresh = head(images(4))
        head.eval()
        calls = tower.calls
        evaluated = [head(images(4)) for _ in range(3)]
        assert tower.calls == calls + 1
        assert not evaluated[0].requires_grad
        assert all(torch.equal(logits, fresh) for logits in evaluated)
        assert not any(torch.equal(logits, fresh) for logits in seen)
        seen.append(fresh.detach())
        nn.functional.cross_entropy(fresh, torch.arange(4)).backward()
        optimizer.step()
    assert not torch.equal(head(images(4)), seen[-1])  # Evaluation sees the last step too.
    head.train()
    assert head(images(4)).requires_grad


def test_the_tower_follows_the_head_to_another_dtype():
    head, tower, _ = made()
    head.eval()
    single = head(images())
    double = head.double()(images().double())
    assert tower.weight.dtype == double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, atol=1e-3, rtol=1e-4)


def test_a_copy_has_a_context_of_its_own():
    head, *_ = made()
    twin = copy.deepcopy(head)
    twin.context.data.add_(1.0)
    assert torch.equal(head(images()), made()[0](images()))
    assert not torch.equal(twin(images()), head(images()))


def test_with_words_for_a_context_it_is_zero_shot_clip():
    from src.clip.model import FrozenClip
    from src.clip.text_tower import TextTower

    clip = FrozenClip.load("local-dir:src/clip/tiny", None)
    tower = TextTower(clip)
    words = "a photo of the letter"
    head = CoOp(tower, ["a", "q", "z"], clip.logit_scale, n_context=5, initial_words=words)
    text = clip.encode_text([[f"a photo of the letter {name}."] for name in "aqz"]).text
    features = torch.randn(4, text.shape[1], generator=torch.Generator().manual_seed(0))
    expected = ZeroShot(text, clip.logit_scale)(features)
    torch.testing.assert_close(head(features), expected, atol=1e-4, rtol=1e-5)
