import shutil
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from src.data.solids import KINDS, make
from src.pretrain.__main__ import TINY, main
from src.pretrain.shading import shade
from src.pretrain.solids import learn_solids, new_words

TABLE = "token_embedding.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Learn the words on the shipped weights, and with the command on weights that lack them."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(TINY, folder, dirs_exist_ok=True)
    path = folders[1] / "model.safetensors"
    weights = load_file(path)
    weights[TABLE][new_words()] = 0
    save_file(weights, path)
    learn_solids(folders[0], renderings=2, seed=0)
    arguments = ["--steps", "0", "--renderings", "2", "--out", str(folders[1])]
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(1)
        patch.setattr(sys, "argv", ["pretrain", *arguments])
        main()
    return folders


def test_equal_arguments_give_equal_bytes_whatever_was_known_before(folders):
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second


def test_only_the_rows_of_the_names_change(folders):
    before, after = (load_file(f / "model.safetensors") for f in (TINY, folders[0]))
    assert before.keys() == after.keys()
    words = new_words().tolist()
    for name, value in after.items():
        changed = (value != before[name]).nonzero()
        assert value.dtype == before[name].dtype
        assert name == TABLE or not len(changed)
        assert set(changed[:, 0].tolist() if len(changed) else []) <= set(words)
    assert (after[TABLE][words] != before[TABLE][words]).any(dim=1).all()


def test_every_name_has_a_word_that_no_caption_of_a_glyph_has():
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TINY}")
    words = set(new_words().tolist())
    assert all(words & set(tokenizer.encode(kind)) for kind in KINDS)


@torch.inference_mode()
def test_shipped_weights_name_solids_that_they_never_saw():
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{TINY}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TINY}")
    model.eval()
    generators = [np.random.default_rng((1, number)) for number in range(20)]
    images = [shade(make(kind, g), 32, g) for kind in KINDS for g in generators]
    pixels = 2 * torch.from_numpy(np.stack(images)).float().movedim(-1, 1) - 1
    texts = tokenizer([f"a photo of a {kind}." for kind in KINDS])
    similarity = model.encode_image(pixels, True) @ model.encode_text(texts, True).T
    right = similarity.argmax(1) == torch.arange(len(KINDS)).repeat_interleave(20)
    assert 100 * right.float().mean() >= 30  # ten kinds; the image tower was trained on glyphs
