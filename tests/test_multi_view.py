"""Every method for point clouds through the real command line."""

import json

import pytest
import torch
from safetensors.torch import load_file

from src.results.record import Result
from tests.cli import calipers, refused, result, run

SMALL = (
    "dataset=solids", "dataset.points=1024", "dataset.per_class={train: 5, val: 3, test: 6}",
    "shots=3", "logger=none", "save_predictions=true",
)  # fmt: skip
FREE = ("zero_shot", "calip", "tip_adapter")
TRAINED = ("tip_adapter_f", "calip_fs", "pointclip", "clip_adapter")
EPOCHS = "++method.training.epochs=30"


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clouds")
    jobs = {}
    for name, methods, more in (
        ("free", FREE, ["selection=val_few_shot", "dataset.view_weights=search"]),
        ("trained", TRAINED, [EPOCHS]),
    ):
        (folder / name).mkdir()
        (folder / "features").mkdir(exist_ok=True)
        (folder / name / "features").symlink_to(folder / "features")
        done = calipers(folder / name, "-m", f"method={','.join(methods)}", *SMALL, *more)
        assert done.returncode == 0, done.stderr
        jobs |= {m: folder / name / f"output/{i}" for i, m in enumerate(methods)}
    return folder, jobs


@pytest.mark.parametrize("method", FREE + TRAINED)
def test_every_method_classifies_solids_above_chance(sweeps, method):
    found = Result.read(sweeps[1][method] / "result.json")
    assert found.method == method
    assert found.accuracy > 25  # chance is 10
    assert found.n_test == 60
    weights = found.hyperparameters["view_weights"]
    assert len(weights) == 6
    assert sum(weights) == pytest.approx(1, abs=1e-6)
    assert (found.trainable_parameters > 0) == (method in TRAINED)
    if method in TRAINED:
        assert weights == pytest.approx([1 / 6] * 6)
    else:
        assert found.selection == "val_few_shot"
        assert found.validation_accuracy is not None


def test_a_checkpoint_gives_the_same_logits_and_view_weights(sweeps, tmp_path):
    (tmp_path / "features").symlink_to(sweeps[0] / "features")
    first = sweeps[1]["pointclip"]
    done = calipers(tmp_path, "method=pointclip", *SMALL, f"ckpt_path={first}/checkpoint.ckpt")
    assert done.returncode == 0, done.stderr
    expected = json.loads((first / "result.json").read_text())
    assert result(tmp_path)["hyperparameters"] == expected["hyperparameters"]
    logits = load_file(tmp_path / "output/predictions.safetensors")["logits"]
    assert torch.equal(logits, load_file(first / "predictions.safetensors")["logits"])


def test_given_weights_decide_which_views_count(sweeps, tmp_path):
    (tmp_path / "features").symlink_to(sweeps[0] / "features")
    weights = "dataset.view_weights=[1,1,1,1,0,0]"
    done = calipers(tmp_path, "method=zero_shot", *SMALL, weights)
    assert done.returncode == 0, done.stderr
    assert "extracting" not in done.stdout
    assert result(tmp_path)["hyperparameters"] == {"view_weights": [0.25] * 4 + [0.0] * 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=linear_probe", "dataset=solids"], "linear_probe is defined for images alone"),
        (["method=pointclip", "dataset=digits"], "digits has none"),
        (["method=zero_shot", "dataset=solids", "dataset.view_weights=search"], "selection=val"),
        (["method=zero_shot", "dataset=solids", "dataset.view_weights=[1,2]"], "6 numbers"),
    ],
)
def test_what_does_not_fit_is_refused(sweeps, tmp_path, arguments, message):
    (tmp_path / "features").symlink_to(sweeps[0] / "features")
    small = [setting for setting in SMALL if "solids" not in setting]
    if "dataset=digits" in arguments:
        small = ["logger=none", "shots=1"]
    assert message in refused(calipers(tmp_path, *arguments, *small))


def test_the_picture_shows_every_class(tmp_path):
    from PIL import Image

    path = tmp_path / "solids.png"
    done = run("src.features.depth_maps", "dataset=solids", "--output", path)
    assert done.returncode == 0, done.stderr
    assert "10 classes, 6 views" in done.stdout
    with Image.open(path) as image:
        assert image.height > image.width > 600
    message = refused(run("src.features.depth_maps", "dataset=digits", "--output", path))
    assert "dataset=digits holds no point clouds" in message
