"""Prompts of models whose tokenizer is one of transformers, as SigLIP's is."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from src.clip import text, tokenizers
from src.clip.model import FrozenClip
from src.clip.text_tower import TextTower
from src.errors import UserError
from tests.cli import calipers, refusal, result
from tests.clip.siglip import BIAS, CONTEXT_LENGTH, SCALE, write_siglip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="the extra siglip is not installed")
    path = tmp_path_factory.mktemp("models") / "siglip"
    write_siglip(path)
    return path


@pytest.fixture(scope="module")
def clip(folder: Path) -> FrozenClip:
    return FrozenClip.load(f"local-dir:{folder}", None)


def test_text_is_encoded_as_open_clip_does(clip):
    prompts = ["a photo of the cat", "a photo of the dog"]
    features = clip.encode_text([[prompt] for prompt in prompts])
    expected = clip.model.encode_text(clip.tokenizer(prompts))
    torch.testing.assert_close(features.raw_text, expected)
    torch.testing.assert_close(features.text, normalize(expected))
    assert not torch.allclose(expected[0], expected[1])


@pytest.mark.parametrize("around", ["{}", " {}!? "])
def test_a_prompt_is_refused_that_would_be_cut(clip, around):
    fits = " ".join(["cat"] * (CONTEXT_LENGTH - 1))  # and the end of the text
    assert clip.encode_text([[around.format(fits)]]).text.shape == (1, 64)
    assert clip.tokenizer([fits])[0].tolist()[-2:] == [7, 1]
    long = around.format(f"{fits} cat")
    message = rf"the prompt '.*' has {CONTEXT_LENGTH + 1} tokens and .* reads {CONTEXT_LENGTH}: sho"
    with pytest.raises(UserError, match=message):
        clip.encode_text([["a cat"], [long]])


def test_a_token_of_class_counts_where_the_tokenizer_puts_one(clip, folder):
    name = f"local-dir:{folder}"
    tokenizer = tokenizers.load(name, folder)
    tokenizer.tokenizer_mode = "clips"
    read = tokenizers.reading(tokenizer)
    assert (len(read.encode("a cat")), read.around) == (2, 3)


@pytest.mark.parametrize("classes", [("Snow, leopard.", "snow leopard"), ("CAT", "cat")])
def test_classes_are_told_apart_that_differ_in_case_or_punctuation_alone(clip, classes):
    with pytest.raises(UserError, match=r"cannot tell apart .* Rename or merge the classes"):
        clip.encode_text([[f"a photo of the {name}"] for name in classes])


def test_words_outside_the_vocabulary_are_refused_by_name(clip):
    with pytest.raises(UserError, match=r"does not know the word\(s\) 雪豹 \(as in 'a 雪豹!'\)"):
        clip.encode_text([["a cat"], ["a 雪豹!"]])


def test_words_that_the_model_never_saw_are_refused_by_name(clip):
    table = clip.model.text.token_embedding
    read = tokenizers.reading(clip.tokenizer)
    assert read is not None
    kept = table.weight[3:6].clone()
    table.weight[3:6] = 0  # of "a", "photo" and "of"
    try:
        text.check_words(["the dog"], read, table, "small")
        with pytest.raises(UserError, match=r"small does not know the word\(s\) photo, of \(as in"):
            text.check_words(["the dog", "photo of the cat"], read, table, "small")
    finally:
        table.weight[3:6] = kept


def test_no_context_is_learned_for_it(clip):
    with pytest.raises(UserError, match="has another tokenizer, as SigLIP's"):
        TextTower(clip)


@pytest.mark.parametrize("architecture", ["ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "ViT-L-14-CLIPA"])
def test_without_transformers_one_message_says_how_to_install_it(monkeypatch, architecture):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=rf'^{architecture} .* pip install "calipers\[siglip\]"'):
        tokenizers.load(architecture)


def test_a_run_without_transformers_ends_in_that_message(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    told = refusal(tmp_path, "dataset=digits", "method=zero_shot", "backbone=siglip2_b16")
    assert told.startswith("error: ViT-B-16-SigLIP2 needs transformers for its tokenizer: pip inst")


def test_clips_own_tokenizer_needs_no_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert tokenizers.load("PE-Core-B-16").context_length == 32


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_folder_without_its_tokenizer_is_refused(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"copy must hold the tokenizer .*put tokenizer\.json"):
        tokenizers.load(f"local-dir:{copy}", copy)


def test_a_damaged_tokenizer_is_refused(copy):
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"the tokenizer in .*copy cannot be built: .*intact"):
        tokenizers.load(f"local-dir:{copy}", copy)


def test_code_of_a_tokenizer_is_neither_run_nor_asked_about(copy, monkeypatch):
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(own))
    (copy / "own.py").write_text("raise SystemExit('it was run')\nclass Own: ...\n")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(UserError, match="code of its own is not run"):
        tokenizers.load(f"local-dir:{copy}", copy)


def test_a_tokenizer_that_cannot_be_fetched_says_how_to_do_without(monkeypatch):
    transformers = pytest.importorskip("transformers", reason="the extra siglip is not installed")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(UserError, match=r"huggingface\.co/timm/ViT-B-16-SigLIP\. .*local-dir:"):
        tokenizers.load("ViT-B-16-SigLIP")


def test_a_run_says_what_the_backbone_was_trained_with_and_for_what_its_settings_were(
    folder, tmp_path
):
    done = calipers(
        tmp_path, "dataset=digits", "method=tip_adapter", "shots=1", "selection=fixed",
        f"backbone.architecture=local-dir:{folder}", "backbone.pretrained=null", "logger=none",
        "backbone.name=mine", "method.support.crops=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = result(tmp_path)
    assert (found["trained_with"], found["probabilities"]) == ("sigmoid", "softmax")
    beta = found["hyperparameters"]["beta"]
    assert beta > 2, "random weights give all images much the same feature"
    scaled = f"defaults, scaled from CLIP's similarities: beta by {beta:.3g}"
    assert found["settings_from"] == scaled
    told = "mine was trained with a sigmoid, and the settings of tip_adapter were published for "
    told += f"CLIP's similarities; scaled to the backbone: beta (by {beta:.3g}); left as published:"
    assert f"{told} alpha=1.17" in " ".join(done.stdout.split())
    about = json.loads((tmp_path / "output/classifier/classifier.json").read_text())
    assert about["logit_bias"] == BIAS
    assert about["settings"]["beta"] == beta
    assert about["logit_scale"] == pytest.approx(SCALE)
