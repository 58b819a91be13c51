"""The classifier that a run leaves, and new pictures that it classifies."""

import csv
import json
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class
from safetensors.torch import load_file, save_file

from src.classifier import classifier
from src.classifier import folder as folder_of
from src.classifier.folder import ABOUT, STATE, About, read_about, read_state, save
from src.config import compose
from src.errors import UserError
from src.files import CONFIG_DIR
from src.heads.multi_view import MultiView
from src.results.outcome import Outcome, wilson_interval
from tests import replica
from tests.cli import calipers, finish, jobs, refused, run, start
from tests.heads.contract import IMAGES, NAMES, VIEWS, build, features, given, logits

METHODS = sorted(path.stem for path in (CONFIG_DIR / "method").glob("*.yaml"))


def about(method, head, settings):
    return About(
        method=method, settings=settings, view_weights=None, class_names=NAMES, prompts=[],
        logit_scale=20.0, backbone="tiny", architecture="local-dir:src/clip/tiny", pretrained=None,
        weights="", precision="32-true", inputs=list(head.inputs), adapted_on={},
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
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


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Adapt by several methods; give each one's folder."""
    folder = tmp_path_factory.mktemp("runs")
    methods = ("zero_shot", "calip", "tip_adapter", "gda", "coop", "prolip")
    done = calipers(
        folder, "-m", f"method={','.join(methods)}", "dataset=dtd", *replica.TINY, "shots=2",
        "++method.training.epochs=3", f"paths.data={data}", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(methods, jobs(folder), strict=True))


@pytest.fixture(scope="module")
def flat(data, tmp_path_factory) -> Path:
    """Copy the test images into one folder, under other names, in the order of the split."""
    folder = tmp_path_factory.mktemp("flat")
    split = json.loads((data / "dtd/split_zhou_DescribableTextures.json").read_text())
    for number, (key, *_) in enumerate(split["test"]):
        shutil.copy(data / "dtd/images" / key, folder / f"{number:03d}.jpg")
    return folder


def predict(*arguments, **environment):
    return run("src.predict", *arguments, **environment)


def answers(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["zero_shot", "calip", "tip_adapter", "gda", "coop", "prolip"])
def test_copies_under_other_names_get_the_runs_own_answers(runs, flat, tmp_path, method):
    outcome = Outcome.read(runs[method] / "outcome.safetensors")
    done = predict(f"model={runs[method]}", f"images={flat}", f"output={tmp_path}/p.csv")
    assert done.returncode == 0, done.stderr
    found = answers(tmp_path / "p.csv")
    names = outcome.class_names
    assert [row["class"] for row in found] == [names[index] for index in outcome.prediction]
    told = [float(row["probability"]) for row in found]
    assert told == pytest.approx(outcome.confidence.tolist(), abs=1e-4)
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_of_classes_tells_its_accuracy_and_damaged_images_have_their_row(
    runs, data, tmp_path
):
    shutil.copytree(data / "dtd/images", tmp_path / "images")
    victim = next((tmp_path / "images").rglob("*.jpg"))
    victim.write_bytes(victim.read_bytes()[:100])
    moved = shutil.copytree(runs["zero_shot"] / "classifier", tmp_path / "elsewhere")
    done = predict(
        f"model={moved}", f"images={tmp_path}/images", f"output={tmp_path}/p.jsonl", "top=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "accuracy 100.00 % of 35 labelled images" in done.stdout
    assert "1 cannot be decoded" in done.stdout
    found = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["path"] for row in found if row["class"] == "damaged"] == [str(victim)]
    assert {len(row["top"]) for row in found if "top" in row} == {2}


def test_an_unsure_image_is_none_of_these(runs, flat, tmp_path):
    done = predict(f"model={runs['zero_shot']}", f"images={flat}/*.jpg", f"output={tmp_path}/p.csv")
    assert done.returncode == 0, done.stderr
    assert len(answers(tmp_path / "p.csv")) == 12
    listed = tmp_path / "list.txt"
    listed.write_text(f"{flat}/000.jpg\n{flat}/001.jpg\n")
    done = predict(
        f"model={runs['zero_shot']}", f"images={listed}", f"output={tmp_path}/q.csv",
        "reject_below=1.01",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [row["class"] for row in answers(tmp_path / "q.csv")] == ["none of these"] * 2


def test_a_killed_prediction_goes_on_where_it_stopped(runs, flat, tmp_path):
    many = tmp_path / "many"
    many.mkdir()
    for number in range(40):
        for image in flat.iterdir():
            (many / f"{number:02d}{image.name}").symlink_to(image)
    typed = (f"model={runs['zero_shot']}", f"images={many}", "batch_size=4")
    done = predict(*typed, f"output={tmp_path}/whole.csv")
    assert done.returncode == 0, done.stderr
    part = tmp_path / "killed.csv.part"
    for lines in (20, 120):
        process = start("src.predict", *typed, f"output={tmp_path}/killed.csv")
        while not part.exists() or part.read_text().count("\n") < lines:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        finish(process)
    done = predict(*typed, f"output={tmp_path}/killed.csv")
    assert done.returncode == 0, done.stderr
    assert "images were classified before" in done.stdout
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


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


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["model=/nowhere", "images=src"], "/nowhere"),
        (["model={run}", "images=src"], "there is no image"),
        (["model={run}"], "images"),
        (["model={run}", "images={flat}", "output=a.txt"], "ends in .csv or .jsonl"),
        (["model={run}", "images={flat}", "top=0"], "top=0"),
        (["model={run}", "images={flat}", "top=many"], "top"),
        (["model={run}", "images={flat}", "tops=2"], "tops"),
        (["model={run}", "images=/no/such.txt"], "/no/such.txt"),
    ],
)
def test_a_mistake_ends_in_one_message(runs, flat, tmp_path, typed, message):
    words = [one.format(run=runs["zero_shot"], flat=flat) for one in typed]
    if not any(one.startswith("output") for one in words):
        words.append(f"output={tmp_path}/p.csv")
    assert message in refused(predict(*words))
    assert not (tmp_path / "p.csv").exists()


def test_the_interval_is_wilsons():
    assert wilson_interval(90.0, 100) == pytest.approx([82.56, 94.48], abs=0.01)
