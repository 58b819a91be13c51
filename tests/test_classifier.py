"""The classifier that a run leaves, and new pictures that it classifies."""

import csv
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hydra.utils import get_class
from safetensors.torch import load_file, save_file

from src.classifier import classifier
from src.classifier import folder as folder_of
from src.classifier.folder import ABOUT, STATE, About, read_about, read_state, save
from src.config import compose, method_yaml
from src.data import solids
from src.errors import UserError
from src.heads.multi_view import MultiView
from src.results.outcome import Outcome, wilson_interval
from tests import replica
from tests.cli import calipers, jobs, run
from tests.heads.contract import ALONE, IMAGES, NAMES, VIEWS, build, features, given, logits
from tests.shared import SHARED, needs_shared


def about(method, head, settings):
    return About(
        method=method, settings=settings, view_weights=None, class_names=NAMES, prompts=[],
        logit_scale=20.0, backbone="tiny", architecture="local-dir:src/clip/tiny", pretrained=None,
        weights="", precision="32-true", inputs=list(head.inputs), adapted_on={},
    )  # fmt: skip


@pytest.mark.parametrize("method", ALONE)
def test_every_head_is_built_again_without_its_support_set(tmp_path, monkeypatch, method):
    node = compose([f"method={method}"]).method.head
    head = build(node).eval()
    images = list(features(type(head), IMAGES).values())
    settings = {k: v for k, v in node.items() if k != "_target_"} | head.chosen()
    views = None
    if type(head).depth_maps == "joint":
        head, views = MultiView(head, [1.0] * VIEWS), [1.0] * VIEWS
        head.eval()
    if parameters := [p for p in head.parameters() if p.requires_grad]:
        with torch.no_grad():
            for parameter in parameters:  # as if it had been trained
                parameter.add_(0.1 * torch.randn_like(parameter))
    everything = given()
    torch.manual_seed(0)
    own = {name: everything[name] for name in get_class(node["_target_"]).given}
    monkeypatch.setattr(classifier, "_of_clip", lambda name, _: getattr(head, name, own.get(name)))
    save(tmp_path, replace(about(method, head, settings), view_weights=views), head, own)
    description = read_about(tmp_path / ABOUT)
    tensors = read_state(tmp_path / STATE, description)
    known = classifier._given(tmp_path, description, tensors, None)
    again = classifier._build(tmp_path, description, tensors, known).eval()
    torch.testing.assert_close(logits(again, images), logits(head, images))
    assert again is not head


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    replica.dtd(folder, per_class=4)
    return folder


QUICK = ("zero_shot", "calip", "tip_adapter", "gda", "coop", "prolip")
BRIEF = ("shots=2", "++method.training.epochs=3", "logger=none")


def adapt(folder, methods, *arguments):
    """Adapt by several methods; give each one's folder."""
    done = calipers(folder, "-m", f"method={','.join(methods)}", *BRIEF, *arguments)
    assert done.returncode == 0, done.stderr
    return dict(zip(methods, jobs(folder), strict=True))


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return adapt(folder, QUICK, "dataset=dtd", *replica.TINY, f"paths.data={data}")


def copies(data: Path, folder: Path) -> Path:
    """Copy the test images into one folder, under other names, in the order of the split."""
    split = json.loads((data / "dtd/split_zhou_DescribableTextures.json").read_text())
    folder.mkdir()
    for number, (key, *_) in enumerate(split["test"]):
        shutil.copy(data / "dtd/images" / key, folder / f"{number:03d}.jpg")
    return folder


@pytest.fixture(scope="module")
def flat(data, tmp_path_factory) -> Path:
    return copies(data, tmp_path_factory.mktemp("flat") / "images")


def agree(folder: Path, images: Path) -> None:
    """Check that new pictures get the answers of a run, whose test images they are."""
    outcome = Outcome.read(folder / "outcome.safetensors")
    with TemporaryDirectory() as scratch:
        done = run("src.predict", f"model={folder}", f"images={images}", f"output={scratch}/p.csv")
        assert done.returncode == 0, done.stderr
        with Path(scratch, "p.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
    names = outcome.class_names
    assert [row["class"] for row in found] == [names[index] for index in outcome.prediction]
    told = [float(row["probability"]) for row in found]
    assert told == pytest.approx(outcome.confidence.tolist(), abs=1e-4)


@pytest.mark.parametrize("method", QUICK)
def test_copies_under_other_names_get_the_runs_own_answers(runs, flat, method):
    agree(runs[method], flat)


JOINT = "pointclip"
"""The method for point clouds alone."""


@pytest.fixture(scope="module")
def runs_of_the_others(data, tmp_path_factory):
    others = [method for method in ALONE if method not in (*QUICK, JOINT)]
    folder = tmp_path_factory.mktemp("others")
    return adapt(folder, others, "dataset=dtd", *replica.TINY, f"paths.data={data}")


@pytest.mark.slow
@pytest.mark.parametrize("method", [one for one in ALONE if one not in (*QUICK, JOINT)])
def test_every_other_method_answers_as_its_run_did(runs_of_the_others, flat, method):
    agree(runs_of_the_others[method], flat)


PER_CLASS, POINTS = {"train": 2, "val": 1, "test": 2}, 256
COUNTS = "{train: 2, val: 1, test: 2}"
SOLIDS = ("dataset=solids", f"dataset.points={POINTS}", f"dataset.per_class={COUNTS}")
ON_CLOUDS = [
    method
    for method in ALONE
    if get_class(method_yaml(method).head["_target_"]).depth_maps != "refused"
]


@pytest.fixture(scope="module")
def clouds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clouds")
    dataset = solids.read(PER_CLASS, POINTS, seed=0, views=6)
    for number, item in enumerate(dataset.splits["test"]):
        np.save(folder / f"{number:03d}.npy", dataset._points(item))
    return folder


@pytest.fixture(scope="module")
def runs_on_clouds(tmp_path_factory):
    return adapt(tmp_path_factory.mktemp("runs"), ON_CLOUDS, *SOLIDS)


@pytest.mark.slow
@pytest.mark.parametrize("method", ON_CLOUDS)
def test_point_clouds_in_files_get_the_runs_own_answers(runs_on_clouds, clouds, method):
    agree(runs_on_clouds[method], clouds)


@pytest.mark.slow
def test_weights_of_depth_maps_are_kept(clouds, tmp_path):
    weights = "dataset.view_weights=[1,0.75,0.5,0.25,1,0.5]"
    folder = adapt(tmp_path, ["tip_adapter"], *SOLIDS, weights)["tip_adapter"]
    assert len(set(read_about(folder / "classifier" / ABOUT).view_weights)) == 4
    agree(folder, clouds)


@pytest.mark.slow
@needs_shared
def test_real_photographs_get_the_runs_own_answers(tmp_path):
    root = tmp_path / "real/dtd"
    root.mkdir(parents=True)
    (root / "images").symlink_to(SHARED / "dtd/images")
    split = root / "split_zhou_DescribableTextures.json"
    split.symlink_to(SHARED / "dtd/split_subset.json")
    names = sorted(path.name for path in (root / "images").iterdir())
    letters = {name: [f"a photo of the letter {chr(97 + n)}."] for n, name in enumerate(names)}
    (tmp_path / "prompts.json").write_text(json.dumps(letters))
    arguments = ("dataset=dtd", "backbone=tiny", f"dataset.prompts={tmp_path}/prompts.json")
    methods = ("calip", "tip_adapter")
    found = adapt(tmp_path, methods, *arguments, f"paths.data={root.parent}")
    images = copies(root.parent, tmp_path / "images")
    for method in methods:
        agree(found[method], images)


def alter(folder, **changes):
    """Write a description that is signed, as an attacker would."""
    content = json.loads((folder / ABOUT).read_text())
    del content["signature"]
    (folder / ABOUT).write_text(json.dumps(folder_of._signed(content | changes)))


def flip(path):
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(len(content) // 2, len(content))] ^= 1
    path.write_bytes(content)


def smuggle(folder):
    tensors = load_file(folder / STATE) | {"state.__class__": torch.zeros(1)}
    save_file(tensors, folder / STATE)
    alter(folder, checksum=folder_of._checksum(tensors))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: flip(f / STATE), "altered, or is damaged|cannot be read"),
        (lambda f: flip(f / ABOUT), "altered, or is damaged|not JSON|not text"),
        (lambda f: alter(f, format=99), "written by a newer version"),
        (lambda f: alter(f, method="../../evil"), "which there is not here"),
        (lambda f: alter(f, method="nonsense"), "which there is not here"),
        (lambda f: alter(f, settings={"_target_": "os.system"}), "has no such setting"),
        (lambda f: alter(f, weights="sha256:0"), "belongs to tiny with the weights"),
        (lambda f: alter(f, class_names="ab"), "does not describe a classifier"),
        (lambda f: (f / STATE).write_bytes(b"\x80\x04\x95"), "cannot be read"),
        (lambda f: (f / ABOUT).unlink(), "is missing"),
        (smuggle, "holds a tensor that this head does not have"),
    ],
)
def test_a_folder_that_was_tampered_with_is_one_message(runs, tmp_path, damage, message):
    folder = shutil.copytree(runs["tip_adapter"] / "classifier", tmp_path / "c")
    damage(folder)
    with pytest.raises(UserError) as raised:
        classifier.load(folder)
    assert any(words in str(raised.value) for words in message.split("|")), raised.value


def test_the_interval_is_wilsons():
    assert wilson_interval(90.0, 100) == pytest.approx([82.56, 94.48], abs=0.01)
