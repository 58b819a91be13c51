"""Every method for point clouds, on generated clouds and on replicas of the published files."""

import json
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file

from src import depth_maps
from src.command_line import run_command
from src.data.scanobjectnn import CLASSES, FILES
from src.errors import UserError
from src.results import outcome
from src.results.record import Result
from src.run import main
from tests import replica_3d
from tests.cli import below, calipers, jobs, result

SMALL = (
    "dataset=solids", "dataset.points=1024", "dataset.per_class={train: 5, val: 3, test: 6}",
    "shots=3", "logger=none", "save_predictions=true",
)  # fmt: skip
SWEEP = "hydra.mode=MULTIRUN"  # recipes write this for -m
FREE = ("zero_shot", "calip", "tip_adapter")
TRAINED = ("tip_adapter_f", "calip_fs", "pointclip", "clip_adapter")


@pytest.fixture(scope="module")
def command():
    """Runs `src.run` in this process, which saves the imports; stores are below each folder."""

    def started(folder, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["run", *below(folder), *arguments])
            GlobalHydra.instance().clear()
            run_command(main)

    return started


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory, command):
    """Run two sweeps; return the folder whose store both use, and the jobs by method."""
    folder = tmp_path_factory.mktemp("clouds")
    free = ["selection=val_few_shot", "dataset.view_weights=search"]
    command(folder, SWEEP, f"method={','.join(FREE)}", *SMALL, *free)
    found = dict(zip(FREE, jobs(folder), strict=True))
    (trained := folder / "trained").mkdir()
    (trained / "features").symlink_to(folder / "features")
    brief = ["++method.training.epochs=120", "++trainer.check_val_every_n_epoch=120"]
    command(trained, SWEEP, f"method={','.join(TRAINED)}", *SMALL, *brief)
    return folder, found | dict(zip(TRAINED, jobs(trained), strict=True))


@pytest.mark.parametrize("method", FREE + TRAINED)
def test_every_method_classifies_solids_above_chance(sweeps, method):
    found = Result.read(sweeps[1][method] / "result.json")
    assert found.method == method
    assert found.accuracy > 25  # chance is 10 %
    assert found.n_test == 60
    weights = found.hyperparameters["view_weights"]
    views = 10 if method == "pointclip" else 6
    assert len(weights) == views
    assert found.points == 1024
    assert sum(weights) == pytest.approx(1, abs=1e-6)
    assert (found.trainable_parameters > 0) == (method in TRAINED)
    if method in TRAINED:
        assert weights == pytest.approx([1 / views] * views)
        copies = {"pointclip": 10}.get(method, 1)
        assert found.distinct_crops == copies
    else:
        assert found.selection == "val_few_shot"
        assert found.validation_accuracy is not None


def test_a_checkpoint_gives_the_same_logits_and_view_weights(sweeps, tmp_path, command):
    (tmp_path / "features").symlink_to(sweeps[0] / "features")
    first = sweeps[1]["pointclip"]
    command(tmp_path, "method=pointclip", *SMALL, f"ckpt_path={first}/checkpoint.ckpt")
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
        (["method=linear_probe", "dataset=solids"], "linear_probe is defined for images only"),
        (["method=pointclip", "dataset=digits"], "digits has none"),
        (["method=zero_shot", "dataset=solids", "dataset.view_weights=search"], "selection=val"),
        (["method=zero_shot", "dataset=solids", "dataset.view_weights=[1,2]"], "6 numbers"),
        (["method=tip_adapter", "dataset=solids", "shots=9"], "largest class has 5 training items"),
    ],
)
def test_what_does_not_fit_is_refused(sweeps, tmp_path, arguments, message, command, capsys):
    (tmp_path / "features").symlink_to(sweeps[0] / "features")
    small = [setting for setting in SMALL if setting.split("=")[0] not in ("dataset", "shots")]
    if "dataset=digits" in arguments:
        small = ["logger=none", "shots=1"]
    with pytest.raises(SystemExit) as ended:
        command(tmp_path, *arguments, *small)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


LETTERS = "cabozxstml"
SCANNED = [f"scanobjectnn dataset.variant={variant}" for variant in FILES]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """Return each replica's settings, and the names of its classes in the order of the labels."""
    folder = tmp_path_factory.mktemp("data")
    size = {"per_class": 3, "points": 256}
    replica_3d.modelnet(folder / "40", LETTERS, **size)
    names = ["airplane", *reversed(replica_3d.MODELNET10), "xbox"]
    replica_3d.modelnet(folder / "10", names, **size)
    replica_3d.scanobjectnn(folder, **size)
    own = json.loads(replica_3d.prompts(folder / "10.json", names).read_text())
    kept = {name: own[name] for name in replica_3d.MODELNET10}
    (folder / "10.json").write_text(json.dumps(kept))
    scanned = replica_3d.prompts(folder / "scanned.json", CLASSES)
    settings = {
        "modelnet40": (f"paths.data={folder}/40", replica_3d.TINY[1]),
        "modelnet10": (f"paths.data={folder}/10", f"dataset.prompts={folder}/10.json"),
        **dict.fromkeys(SCANNED, (f"paths.data={folder}", f"dataset.prompts={scanned}")),
    }
    classes = {"modelnet40": list(LETTERS), "modelnet10": list(replica_3d.MODELNET10)}
    return settings, classes | {name: list(CLASSES) for name in SCANNED}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modelnet40", "modelnet10", *SCANNED])
def test_every_method_runs_on_the_published_layouts(name, replicas, tmp_path, command):
    (settings, classes), few = replicas, ("backbone=tiny", "shots=1", "logger=none")
    arguments = [*f"dataset={name}".split(), *settings[name], *few]
    # CoOp puts the class names after its context, and the tiny backbone reads only letters.
    trained = (*TRAINED, "coop") if name == "modelnet40" else TRAINED
    if name in SCANNED[1:]:
        trained = ("tip_adapter_f",)  # these have other files in the same layout
    found = []
    for methods, epochs in ((FREE, []), (trained, ["++method.training.epochs=2"])):
        command(tmp_path, SWEEP, f"method={','.join(methods)}", *arguments, *epochs)
        found += jobs(tmp_path)
    assert [Result.read(job / "result.json").method for job in found] == [*FREE, *trained]
    for job in found:
        answers = outcome.Outcome.read(job / outcome.FILE)
        assert answers.class_names == classes[name]
        assert sorted(answers.label) == sorted([*range(len(classes[name]))] * 3)
    # Each class looks like its prompt; if the order were wrong, accuracy would be at chance.
    assert Result.read(found[0] / "result.json").accuracy > 200 / len(classes[name])


def test_the_picture_shows_every_class(tmp_path, monkeypatch, capsys):
    from PIL import Image

    path = tmp_path / "solids.png"
    monkeypatch.setattr(sys, "argv", ["depth_maps", "dataset=solids", "--output", str(path)])
    GlobalHydra.instance().clear()
    depth_maps.main()
    assert "10 classes, 6 views" in capsys.readouterr().out
    with Image.open(path) as image:
        assert image.height > image.width > 600
    for wrong in (tmp_path / "solids.xyz", tmp_path):
        monkeypatch.setattr(sys, "argv", ["depth_maps", "dataset=solids", "--output", str(wrong)])
        with pytest.raises(UserError, match=rf"--output {wrong} is no picture's file"):
            depth_maps.main()
    monkeypatch.setattr(sys, "argv", ["depth_maps", "dataset=digits"])
    with pytest.raises(UserError, match="dataset=digits holds no point clouds"):
        depth_maps.main()
