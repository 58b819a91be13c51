"""`python -m src.features fidelity`: the figures, the verdict, and what it refuses."""

import io
import json
import math
import shutil
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from src import calipers
from src.clip.folding import fold
from src.clip.model import FrozenClip
from src.command_line import run_command
from src.data import digits
from src.data.prompts import make_prompts
from src.features.fidelity import Comparison, compare, same_top1, summarise
from src.fidelity import main
from tests.cli import ROOT, refused, run

TINY = ROOT / "src/clip/tiny"
LIMIT = 64
BATCH = 32
SMALL = ("dataset=digits", f"limit={LIMIT}", f"backbone.batch_size={BATCH}")


def fidelity(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run("src.features", "fidelity", *arguments)


def figures(folder: Path, *arguments: object) -> dict:
    """Compare; return what was written."""
    done = fidelity(*arguments, f"output={folder}/figures.json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads((folder / "figures.json").read_text())


def photographs(folder: Path, count: int) -> Path:
    """Write noise, some of it into a folder below."""
    generator = np.random.default_rng(0)
    (folder / "below").mkdir(parents=True)
    for number in range(count):
        name = f"{'below/' if number % 2 else ''}{number:02}.png"
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image either")
    return folder


def test_the_figures_are_those_of_a_plain_computation(tmp_path):
    done = fidelity(*SMALL, f"output={tmp_path}/figures.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())

    dataset = digits.read()
    items = dataset.splits["test"]
    chosen = [items[number * len(items) // LIMIT] for number in range(LIMIT)]
    assert len({item.label for item in chosen}) == 10
    clip = FrozenClip.load(f"local-dir:{TINY}", None)
    template = 'a photo of the number: "{}".'
    text = clip.encode_text(make_prompts(dataset.class_names, [template])).text
    images = torch.stack([clip.preprocess(dataset.load(item)) for item in chosen]).split(BATCH)
    fold(clip.model.visual)
    clip.to(memory_format=torch.channels_last)
    full = [clip.encode(batch, ["global", "spatial"]) for batch in images]
    clip.to(torch.bfloat16)
    low = [clip.encode(batch.to(torch.bfloat16), ["global", "spatial"]) for batch in images]
    for name, rows in (("global", LIMIT), ("spatial", 16 * LIMIT)):
        one, other = (
            torch.cat([batch[name] for batch in way]).half().double().flatten(end_dim=-2)
            for way in (low, full)
        )
        cosine = torch.cosine_similarity(one, other, dim=-1)
        ratio = one.norm(dim=-1) / other.norm(dim=-1)
        assert found["features"][name] == {
            "rows": rows,
            "below": 0,
            "least_cosine": pytest.approx(float(cosine.min()), abs=1e-6),
            "mean_cosine": pytest.approx(float(cosine.mean()), abs=1e-6),
            "largest_length_difference": pytest.approx(
                float(1 - torch.minimum(ratio, 1 / ratio).min()), rel=1e-2
            ),
        }
        assert 0.999 < cosine.min() < 0.9999999
    scores = [torch.cat([batch["global"] for batch in way]).float() @ text.T for way in (low, full)]
    best = [one.argmax(dim=1) for one in scores]
    assert found["same_top1"] == int((best[0] == best[1]).sum())
    assert (found["backbone"], found["images"], found["images_of"]) == ("tiny", LIMIT, "digits")
    assert (found["precision"], found["against"]) == ("bf16-true", "32-true")
    assert found["faithful"] is True
    assert all(rate > 0 for rate in found["images_per_second"].values())
    assert "bf16-true is enough" in done.stdout
    assert f"{found['features']['global']['least_cosine']:.6f}" in done.stdout
    assert f"comes first: {found['same_top1']} of {LIMIT} images" in done.stdout


def test_a_precision_in_which_features_overflow_is_not_enough(tmp_path):
    shutil.copytree(TINY, tmp_path / "large")
    weights = load_file(TINY / "model.safetensors")
    # What QuickGELU gives is as much larger as what it is multiplied with is smaller.
    name = "visual.transformer.resblocks.1.mlp.{}.weight"
    weights[name.format("c_fc")] = weights[name.format("c_fc")].float() * 1e4
    weights[name.format("c_proj")] = weights[name.format("c_proj")].float() * 1e-4
    (tmp_path / "large/model.safetensors").unlink()
    save_file(weights, tmp_path / "large/model.safetensors")
    typed = (*SMALL, f"backbone.architecture=local-dir:{tmp_path}/large")
    assert figures(tmp_path, *typed, "precision=bf16-true")["faithful"] is True
    done = fidelity(*typed, "precision=16-true", f"output={tmp_path}/figures.json")
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["faithful"] is False
    assert found["features"]["global"]["least_cosine"] == 0
    assert found["features"]["global"]["largest_length_difference"] == 1
    assert found["same_top1"] < LIMIT
    assert "16-true is not enough" in done.stdout
    assert "global and spatial features are below a cosine of 0.999 to 32-true" in done.stdout
    assert found["features"]["global"]["below"] > 0


def test_images_of_a_folder_and_its_damaged_ones(tmp_path):
    folder = photographs(tmp_path / "photographs", 6)
    typed = (f"images={folder}", "backbone=tiny")
    found = figures(tmp_path, *typed, "classes=1,2, 3", "limit=4", "spatial=false")
    assert list(found["features"]) == ["global"]
    assert (found["images"], found["images_of"]) == (4, str(folder))
    assert found["same_top1"] in range(5)
    (folder / "below/01.png").write_bytes(b"\x89PNG")
    message = refused(fidelity(*typed))
    assert f"cannot decode the image {folder}/below/01.png" in message
    assert "on_bad_image=skip" in message
    found = figures(tmp_path, *typed, "on_bad_image=skip")
    assert found["images"] == found["features"]["global"]["rows"] == 5
    assert found["same_top1"] is None
    assert found["images_per_second"] == {"bf16-true": None, "32-true": None}  # a single batch
    for path in folder.rglob("[0-9]*.png"):
        path.write_bytes(b"")
    assert "none of the images can be decoded" in refused(fidelity(*typed, "on_bad_image=skip"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "Give either images=FOLDER or dataset=NAME"),
        (["dataset=digits", "images=conf"], "Give either images=FOLDER or dataset=NAME"),
        (["images=nowhere"], "images=nowhere is no folder"),
        (["images=conf"], "there is no image in conf"),
        (["images=conf", "classes=cat"], "classes=cat: give two or more different ones"),
        (["images=conf", "classes=cat,cat"], "give two or more different ones"),
        (["dataset=digits", "classes=1,2"], "a dataset has its own classes"),
        (["dataset=digits", "limit=0"], "limit=0 is not an integer from 1 up"),
        (["dataset=digits", "output=conf"], "output=conf is a folder"),
        (["dataset=digits", "precison=16-true"], "Did you mean precision=...?"),
        (["dataset=digits", "method=calip"], "there is no setting 'method=calip'"),
        (["dataset=digits", "backbone=rn5"], "there is no backbone called 'rn5'"),
        (["dataset=digits", "precision=half"], "precision=half: Precision 'half' is invalid"),
        (["dataset=digits", "against=32"], "against=32: Lightning takes 32-true for it here"),
        (["dataset=digits", "precision=32-true"], "are the same here"),
        (["dataset=solids"], "dataset=solids holds no images"),
        (["dataset=precomputed", "dataset.path=conf"], "dataset=precomputed holds no images"),
    ],
)
def test_mistakes_are_refused_in_one_message(typed, message, monkeypatch):
    errors = io.StringIO()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["fidelity", *typed])
    with redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        run_command(main)
    code = int(ended.value.code or 0)
    assert message in refused(subprocess.CompletedProcess([], code, "", errors.getvalue()))


def test_the_stores_command_is_still_called_features(tmp_path, monkeypatch, capsys):
    typed = ("ls", "--root", tmp_path)
    shown = run("src.features", *typed)
    assert (shown.returncode, shown.stdout) == (0, run("src.store", *typed).stdout)
    assert "entries: 0" in shown.stdout
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    for words, told in ((["--help"], "verify"), (["fidelity", "--help"], "against:")):
        monkeypatch.setattr(sys, "argv", ["calipers", "features", *words])
        with pytest.raises(SystemExit) as ended:
            calipers.main()
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert "fidelity" in shown
        assert told in shown


numbers = st.floats(-100, 100, width=32)


@st.composite
def pairs(draw):
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    size = math.prod(shape)
    lists = st.lists(numbers | st.sampled_from([math.nan, math.inf, 0.0]), min_size=size)
    return tuple(torch.tensor(draw(lists)[:size]).view(shape) for _ in range(2))


@given(pairs())
def test_rows_are_compared_as_the_definition_says(pair):
    cosine, difference = compare(*pair)
    for row, (one, other) in enumerate(zip(*(each.double().numpy() for each in pair), strict=True)):
        lengths = sorted(math.sqrt(sum(x * x for x in each)) for each in (one, other))
        if not all(map(math.isfinite, lengths)):
            expected = 0, 1
        elif lengths[1] == 0:
            expected = 1, 0  # both are nothing
        elif lengths[0] == 0:
            expected = 0, 1
        else:
            expected = float(one @ other) / math.prod(lengths), 1 - lengths[0] / lengths[1]
        assert (float(cosine[row]), float(difference[row])) == pytest.approx(expected, abs=1e-9)


@given(pairs(), st.integers(1, 6))
def test_batches_change_no_figure_and_neither_does_the_order_of_the_two(pair, size):
    one, other = pair
    whole = summarise([compare(one, other)])
    assert summarise([compare(other, one)]) == whole
    parts = zip(one.split(size), other.split(size), strict=True)
    joined = summarise([compare(*part) for part in parts])
    assert joined.rows == whole.rows == len(one)
    assert joined.below == whole.below == int((compare(one, other).cosine < 0.999).sum())
    assert joined.least_cosine == whole.least_cosine
    assert joined.mean_cosine == pytest.approx(whole.mean_cosine)
    assert joined.largest_length_difference == whole.largest_length_difference


@given(st.floats(0.125, 8))
def test_a_longer_feature_points_the_same_way(factor):
    feature = torch.tensor([[[3.0, -4.0], [0.5, 2.0]]], dtype=torch.float64)
    found = summarise([compare(factor * feature, feature)])
    assert found.rows == 2
    assert found.least_cosine == pytest.approx(1)
    assert found.largest_length_difference == pytest.approx(1 - min(factor, 1 / factor))


def test_the_same_class_is_counted_image_by_image():
    text = torch.eye(3)
    reference = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 0, 1], [1, 0, 0]])
    low = torch.tensor([[5.0, 1, 0], [0, 1, 2], [0, 0, 2], [math.nan, 0, 0]]).half()
    assert same_top1(low, reference, text) == 2
    comparison = Comparison(text)
    for rows in reference.split(2):
        comparison.remember({"global": rows})
    for rows in low.split(2):
        comparison.compare({"global": rows})
    assert (comparison.images, comparison.same) == (4, 2)
    assert comparison.likeness()["global"].rows == 4
    assert comparison.likeness()["global"].least_cosine == 0
