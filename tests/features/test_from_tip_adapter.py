import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.caltech101 import CLASSES
from tests.shared import SHARED, needs_shared

CLASS_NAMES = ["cat", "sea_horse", "dog"]


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for split in ("val", "test"):
        torch.save(torch.randn(6, 4, generator=generator).half(), folder / f"{split}_f.pt")
        torch.save(torch.tensor([0, 1, 2, 2, 1, 0]), folder / f"{split}_l.pt")
    torch.save(torch.randn(4, 6, generator=generator).half(), folder / "keys_2shots.pt")
    values = torch.eye(3)[torch.tensor([0, 0, 1, 1, 2, 2])].half()
    torch.save(values, folder / "values_2shots.pt")
    (tmp_path / "classes.json").write_text(json.dumps(CLASS_NAMES))
    (tmp_path / "names.json").write_text(json.dumps(["dog", "bird", "sea horse"]))
    np.save(tmp_path / "text.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    return tmp_path


def convert(folder, *further, text="text.npy"):
    command = [sys.executable, "-m", "src.features.from_tip_adapter", folder / "cache"]
    command += [folder / "out", "--classes", folder / "classes.json", "--text", folder / text]
    command += ["--text-names", folder / "names.json", *further]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_converts_the_classes_that_have_a_text_feature(cache):
    done = convert(cache, "--shots", "2")
    assert done.returncode == 0, done.stderr
    assert "left out 1 classes" in done.stdout
    out = cache / "out"
    assert json.loads((out / "classes.json").read_text()) == ["sea_horse", "dog"]
    assert json.loads((out / "meta.json").read_text())["logit_scale"] == 100.0
    text = load_file(out / "text.safetensors")["text"]
    assert text.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    test = load_file(out / "test.safetensors")
    original = torch.load(cache / "cache/test_f.pt", weights_only=True)
    assert test["label"].tolist() == [0, 1, 1, 0]
    assert torch.equal(test["global"], original[[1, 2, 3, 4]])
    train = load_file(out / "train.safetensors")
    keys = torch.load(cache / "cache/keys_2shots.pt", weights_only=True)
    assert train["label"].tolist() == [0, 0, 1, 1]
    assert torch.equal(train["global"], keys.T[2:])


def test_text_features_are_read_as_tip_adapters_code_keeps_them_too(cache):
    """Its `clip_weights` are `[d, c]`."""
    np.save(cache / "text.npy", np.load(cache / "text.npy").T)
    done = convert(cache)
    assert done.returncode == 0, done.stderr
    text = load_file(cache / "out/text.safetensors")["text"]
    assert text.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda c: (c / "cache/test_f.pt").unlink(), "test_f.pt is missing"),
        (lambda c: (c / "cache/test_f.pt").write_bytes(b"no"), "does not hold a tensor"),
        (lambda c: torch.save(torch.arange(5), c / "cache/test_l.pt"), "do not belong together"),
        (lambda c: torch.save(torch.arange(6), c / "cache/test_l.pt"), "do not belong together"),
        (lambda c: (c / "names.json").write_text('["dog"]'), "3 text features for 1 names"),
        (lambda c: (c / "names.json").write_text('["a", "b", "c"]'), "names none of the classes"),
        (lambda c: (c / "classes.json").write_text("{"), "must be a JSON list"),
        (lambda c: (c / "out").mkdir(), "exists"),
    ],
)
def test_refuses_what_does_not_fit_and_leaves_nothing(cache, break_it, message):
    break_it(cache)
    done = convert(cache)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert not list(cache.glob(".out*"))
    assert not list((cache / "out").glob("*"))


def test_never_unpickles_code(cache):
    torch.save(subprocess.run, cache / "cache/test_f.pt")
    done = convert(cache)
    assert done.returncode == 2
    assert "does not hold a tensor and nothing else" in done.stderr


@needs_shared
def test_real_clip_features_classify_caltech101_as_they_must(tmp_path):
    source = SHARED / "clip_features"
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    (tmp_path / "cache").symlink_to(source / "caltech101_vit_b32")
    for name, file in (("text.npy", "lvis_names.npy"), ("names.json", "lvis_names.json")):
        (tmp_path / name).symlink_to(source / "text_vit_b32" / file)
    assert "28 classes" in convert(tmp_path).stdout
    run = [sys.executable, "-m", "src.run", "method=zero_shot", "dataset=precomputed"]
    run += [f"dataset.path={tmp_path}/out", f"hydra.run.dir={tmp_path}/run", "logger=none"]
    subprocess.run(run, check=True, capture_output=True)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["n_test"] == 803
    assert result["accuracy"] == pytest.approx(100 * 789 / 803)
    assert result["backbone"] == "vit_b32"
