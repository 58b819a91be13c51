import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch.nn import functional

from src.data import digits, letters
from src.pretrain.__main__ import TINY, main
from src.pretrain.captions import ATTRIBUTES, captions
from src.pretrain.solids import new_words
from src.pretrain.training import CONTEXT_LENGTH, caption_loss, read_captions, read_glyphs, train


@pytest.fixture(scope="module")
def runs() -> list[dict[str, torch.Tensor]]:
    weights = []
    for elsewhere in range(2):
        torch.manual_seed(elsewhere)
        weights.append(train(5, 0).state_dict())
    return weights


def used_tokens() -> set[int]:
    start, end = 49406, 49407
    tokenizer = SimpleTokenizer()
    return {start, end}.union(*(tokenizer.encode(caption.text) for caption in captions()))


def nonzero_rows(table: torch.Tensor) -> set[int]:
    return set(table.abs().sum(1).nonzero().flatten().tolist())


def test_equal_seeds_give_equal_weights_whatever_the_global_seed(runs):
    first, second = runs
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
def test_loss_falls_below_that_of_ignorance():
    losses: list[float] = []
    train(150, 0, report=lambda step, loss: losses.append(loss))
    assert len(losses) == 150
    # The first steps learn only how frequent the classes are, which gives a loss of 8.4.
    assert sum(losses[-10:]) / 10 < 7.9


def test_rows_of_unused_tokens_are_exactly_zero(runs):
    assert nonzero_rows(runs[0]["token_embedding.weight"]) == used_tokens()


@pytest.mark.slow
def test_command_writes_a_folder_that_open_clip_loads(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["pretrain", "--steps", "1", "--renderings", "1", "--out", str(tmp_path)]
    )
    randomness = torch.get_rng_state()
    main()
    assert torch.equal(torch.get_rng_state(), randomness)
    assert {path.name for path in tmp_path.iterdir()} == {
        "open_clip_config.json",
        "model.safetensors",
    }
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    assert model.encode_image(torch.zeros(2, 3, 32, 32)).shape == (2, 64)
    assert model.encode_text(torch.zeros(3, CONTEXT_LENGTH, dtype=torch.long)).shape == (3, 64)
    assert (
        TINY.joinpath("open_clip_config.json").read_text()
        == (tmp_path / "open_clip_config.json").read_text()
    )


def test_every_glyph_has_a_caption_for_each_true_attribute():
    glyphs, texts = read_glyphs(), read_captions()
    assert (texts.counts[glyphs.labels] > 0)[glyphs.attributes].all()
    everything = captions()
    for label, attribute in ((7, 0), (16, ATTRIBUTES.index("italic"))):
        start = int(texts.starts[label, attribute])
        block = everything[start : start + int(texts.counts[label, attribute])]
        assert {(caption.label, caption.attribute) for caption in block} == {(label, attribute)}


@given(st.integers(1, 8), st.integers(0, 2**32))
def test_caption_loss_with_one_truth_each_is_the_loss_of_clip(count: int, seed: int):
    logits = torch.randn(count, count, generator=torch.Generator().manual_seed(seed))
    target = torch.arange(count)
    expected = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    loss = caption_loss(logits, torch.eye(count, dtype=torch.bool))
    assert torch.allclose(loss, expected / 2, atol=1e-5)


def test_caption_loss_does_not_push_equal_captions_apart():
    logits = torch.zeros(2, 2, requires_grad=True)
    caption_loss(logits, torch.ones(2, 2, dtype=torch.bool)).backward()
    assert torch.equal(logits.grad, torch.zeros(2, 2))


def test_pretraining_never_imports_the_datasets_it_is_judged_by():
    code = (
        "import sys, src.pretrain.__main__;"
        "print([name for name in sys.modules if name in"
        "('src.data.digits', 'src.data.letters', 'sklearn.datasets', 'src.clip.projection')])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("reader", "template", "at_least"),
    [
        (digits, 'a photo of the number: "{}".', 75),
        (letters, "a photo of the letter {}.", 60),
    ],
)
@torch.inference_mode()
def test_shipped_weights_classify_what_they_never_saw(reader, template: str, at_least: float):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TINY}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TINY}")
    model.eval()
    dataset = reader.read()
    test = dataset.splits["test"]
    images = torch.stack([preprocess(dataset.load(item)) for item in test])
    texts = tokenizer([template.format(name) for name in dataset.class_names])
    similarity = model.encode_image(images, True) @ model.encode_text(texts, True).T
    right = similarity.argmax(1) == torch.tensor([item.label for item in test])
    assert 100 * right.float().mean() >= at_least


def test_shipped_weights_are_small_and_know_only_the_words_of_captions_and_solids():
    weights = TINY / "model.safetensors"
    assert weights.stat().st_size <= 8e6
    words = used_tokens() | set(new_words().tolist())
    assert nonzero_rows(load_file(weights)["token_embedding.weight"]) == words
