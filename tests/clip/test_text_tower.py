import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from src.clip import text_tower
from src.clip.model import FrozenClip
from src.clip.text_tower import TextTower
from src.errors import UserError

CONTEXT = "a photo of the small red"
CLASS_NAMES = ["cat", "snow_leopard", "x", "Boeing 747-400", "dog", "a very old oak tree", "7"]
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
KINDS = {"clip": {}, "custom text": {"custom_text": True}, "quick gelu": {"quick_gelu": True}}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., FrozenClip]:
    """Build a small CLIP whose weights are all off their initial values."""

    def build(text: dict | None = None, **others: object) -> FrozenClip:
        vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT | (text or {}), **others}
        (tmp_path / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": {}})
        )
        from open_clip import CLIP, CustomTextCLIP, get_tokenizer
        from torchvision.transforms import Compose

        torch.manual_seed(0)
        kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
        model = kind(**config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name != "logit_scale":
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        return FrozenClip(model, get_tokenizer(f"local-dir:{tmp_path}"), Compose([]), "small")

    return build


def words_as_context(clip: FrozenClip, tower: TextTower) -> tuple[torch.Tensor, ...]:
    """Return prefix, suffixes and ends of the prompts "{CONTEXT} {class name}."."""
    words = tower.token_embedding(clip.tokenizer([CONTEXT]))[0, 1:7]
    embeddings, ends = tower.embed(CLASS_NAMES, n_context=6)
    return torch.cat([embeddings[0, :1], words]), embeddings[:, 7:], ends


def prompts() -> list[str]:
    return [f"{CONTEXT} {name.replace('_', ' ')}." for name in CLASS_NAMES]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes_per_pass", [1, 3, 128])
def test_features_of_real_words_are_open_clips(load, monkeypatch, kind, classes_per_pass):
    monkeypatch.setattr(text_tower, "CLASSES_PER_PASS", classes_per_pass)
    clip = load(**KINDS[kind])
    tower = TextTower(clip)
    features = tower(*words_as_context(clip, tower))
    expected = clip.model.encode_text(clip.tokenizer(prompts()))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    assert torch.pdist(features).min() > 0.1  # the classes can be told apart


def test_tiny_gives_the_features_of_its_own_prompts():
    clip = FrozenClip.load("local-dir:src/clip/tiny", None)
    tower = TextTower(clip)
    words = tower.token_embedding(clip.tokenizer(["a photo of the letter"]))[0, 1:6]
    embeddings, ends = tower.embed(["a", "q", "z"], n_context=5)
    features = tower(torch.cat([embeddings[0, :1], words]), embeddings[:, 6:], ends)
    expected = clip.encode_text([[f"a photo of the letter {name}."] for name in "aqz"]).text
    torch.testing.assert_close(nn.functional.normalize(features), expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_the_context_are_those_of_whole_prompts(load):
    """Pass every class's whole prompt, padding included, through the tower."""
    clip = load()
    tower = TextTower(clip)
    prefix, suffixes, ends = words_as_context(clip, tower)
    prefix.requires_grad_()
    direction = torch.randn(24, generator=torch.Generator().manual_seed(1))
    (packed,) = torch.autograd.grad((tower(prefix, suffixes, ends) @ direction).sum(), prefix)

    model = clip.model
    whole = torch.cat([prefix.expand(len(ends), -1, -1), suffixes], dim=1)
    length = whole.shape[1]
    output = model.transformer(
        whole + model.positional_embedding[:length], attn_mask=model.attn_mask[:length, :length]
    )
    features = model.ln_final(output)[range(len(ends)), ends] @ model.text_projection
    (plain,) = torch.autograd.grad((features @ direction).sum(), prefix)
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-5)
    assert (plain.norm(dim=1) > 0.1).all()


def test_several_prefixes_give_the_features_of_each(load, monkeypatch):
    monkeypatch.setattr(text_tower, "CLASSES_PER_PASS", 3)
    tower = TextTower(clip := load())
    prefix, suffixes, ends = words_as_context(clip, tower)
    several = torch.stack([prefix, prefix.flip(0), 2 * prefix])
    features = tower(several, suffixes, ends)
    assert features.shape == (3, len(ends), 24)
    for own, one in zip(features, several, strict=True):
        torch.testing.assert_close(own, tower(one, suffixes, ends), rtol=1e-5, atol=1e-5)


def test_words_are_embedded_without_start_and_end(load):
    tower = TextTower(clip := load())
    expected = tower.token_embedding(clip.tokenizer([CONTEXT]))[0, 1:7]
    assert torch.equal(tower.embed_words(CONTEXT), expected)
    assert tower.embed_words("").shape == (0, 32)


def test_a_context_of_words_that_the_model_never_saw_is_refused_by_name():
    tower = TextTower(FrozenClip.load("local-dir:src/clip/tiny", None))
    assert tower.embed_words("a photo of the letter").shape == (5, 48)
    message = (
        r"initial_words='a blurry photo of a': .*tiny does not know the word\(s\) blurry: give"
    )
    with pytest.raises(UserError, match=message):
        tower.embed_words("a blurry photo of a")


def test_a_class_does_not_depend_on_the_others_nor_on_what_follows_its_end(load):
    tower = TextTower(clip := load())
    prefix, suffixes, ends = words_as_context(clip, tower)
    features = tower(prefix, suffixes, ends)
    order = torch.randperm(len(ends), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tower(prefix, suffixes[order], ends[order]), features[order])
    behind = torch.arange(suffixes.shape[1]) + len(prefix) > ends.unsqueeze(1)
    assert behind.any()
    suffixes[behind] = torch.nan
    assert torch.equal(tower(prefix, suffixes, ends), features)


def test_prompts_hold_placeholders_the_class_name_and_a_full_stop(load):
    tower = TextTower(clip := load())
    embeddings, ends = tower.embed(["snow_leopard", "cat"], n_context=4)
    tokens = clip.tokenizer(["X X X X snow leopard.", "X X X X cat."])
    assert ends.tolist() == [1 + 4 + 3, 1 + 4 + 2]
    assert tokens[[0, 1], ends].tolist() == [clip.tokenizer.eot_token_id] * 2
    assert embeddings.dtype == torch.float32
    assert torch.equal(embeddings, tower.token_embedding(tokens[:, :9]))


def test_the_tower_is_frozen_and_lets_the_image_tower_go(load):
    clip = load()
    visual = weakref.ref(clip.model.visual)
    tower = TextTower(clip)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not any(module.training for module in tower.modules())
    del clip
    gc.collect()
    assert visual() is None


BOTH, ELSEWHERE, LAYER = "in both directions", "at another token than its end", "another layer"


@pytest.mark.parametrize(
    ("text", "others", "reason"),
    [
        ({"no_causal_mask": True}, {}, BOTH),
        ({"pool_type": "last"}, {}, ELSEWHERE),
        ({"pool_type": "last"}, {"custom_text": True}, ELSEWHERE),
        ({"embed_cls": True}, {"custom_text": True}, ELSEWHERE),
        ({"proj_bias": True}, {}, LAYER),
    ],
)
def test_other_text_towers_are_refused_with_the_reason(load, text, others, reason):
    with pytest.raises(UserError, match=f"text transformer as OpenAI's .* and small .*{reason}"):
        TextTower(load(text, **others))


def test_other_tokenizers_are_refused(load):
    clip = load()
    clip.tokenizer = lambda texts: torch.zeros(len(texts), 24, dtype=torch.long)
    with pytest.raises(UserError, match="small has another tokenizer"):
        TextTower(clip)


def test_a_class_that_does_not_fit_behind_the_context_is_refused_by_name(load):
    tower = TextTower(load())
    embeddings, _ = tower.embed(["a snow leopard", "cat"], n_context=18)
    assert embeddings.shape[1] == 24
    message = "class 'a snow leopard' has 25 tokens with n_context=19, and small reads 24"
    with pytest.raises(UserError, match=message):
        tower.embed(["cat", "a_snow_leopard"], n_context=19)


def test_words_that_the_model_never_saw_are_refused_by_name(load):
    clip = load()
    known = clip.tokenizer.encode("cat.")  # not the placeholder, whose embedding is never used
    rows = torch.arange(len(clip.model.token_embedding.weight))
    clip.model.token_embedding.weight[~torch.isin(rows, torch.tensor(known))] = 0
    tower = TextTower(clip)
    tower.embed(["cat"], n_context=2)
    with pytest.raises(UserError, match=r"small does not know the word\(s\) zebra"):
        tower.embed(["cat", "Zebra"], n_context=2)


def test_a_context_of_nothing_is_refused(load):
    with pytest.raises(UserError, match="n_context=0 leaves nothing to learn"):
        TextTower(load()).embed(["cat"], n_context=0)
