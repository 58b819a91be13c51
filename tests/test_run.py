import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from src.data.images import ImageArrays, Item
from src.files import ROOT
from src.results.record import Result
from tests import replica
from tests.cli import below, calipers, jobs, refused, result, run
from tests.heads import plain
from tests.offline_run import read_offline_run
from tests.shared import SHARED, needs_shared


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Run two jobs on the embedded default, with all loggers and an empty store at first."""
    folder = tmp_path_factory.mktemp("sweep")
    done = calipers(folder, "-m", "method=zero_shot,calip", "dataset=digits", "seed=0,1")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_methods_that_draw_no_images_are_run_once_in_a_sweep_over_seeds(sweep):
    folder, done = sweep
    results = [Result.read(job / "result.json") for job in jobs(folder)]
    assert [(r.method, r.seed) for r in results] == [
        ("zero_shot", 0), ("zero_shot", 0), ("calip", 0), ("calip", 0),
    ]  # fmt: skip
    assert len([*folder.glob("output/*/result.json")]) == 2
    assert results[0].accuracy >= 75
    table = done.stdout[done.stdout.index("all runs in") :]
    for found in results[0], results[2]:
        assert sum(found.method in line.split() for line in table.splitlines()) == 1
        assert f"{found.accuracy:.2f}" in table


def test_a_result_holds_the_whole_contract(sweep):
    found = json.loads((jobs(sweep[0])[2] / "result.json").read_text())
    assert found | {
        "dataset": "digits", "backbone": "tiny", "precision": "32-true", "method": "calip",
        "shots": 0, "seed": 0,
        "selection": "fixed", "validation_accuracy": None, "selected_on_test": False,
        "n_test": 720, "n_classes": 10, "trainable_parameters": 0, "epochs": 0, "published": None,
        "hyperparameters": {
            "attention_factor": 2.0, "beta2": 1.12, "beta3": 0.02, "bfloat16_attention": False,
        },
    } == found  # fmt: skip
    assert 0 <= found["ece"] <= 1
    assert 0 < found["mean_class_accuracy"] <= 100
    assert {"features", "test"} <= found["timings_s"].keys()
    assert found["peak_rss_mb"] > 50
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len(found["config_hash"]) == 16


def test_csv_and_wandb_hold_the_figures(sweep):
    folder = jobs(sweep[0])[2]
    found = json.loads((folder / "result.json").read_text())
    with (folder / "csv/metrics.csv").open() as file:
        logged = next(csv.DictReader(file))
    assert float(logged["accuracy"]) == pytest.approx(found["accuracy"])
    (offline,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    run = read_offline_run(offline)
    assert run.summary["accuracy"] == pytest.approx(found["accuracy"])
    assert run.summary["dataset"] == "digits"
    assert run.about.run_group == "digits-tiny"
    assert set(run.about.tags) == {"digits", "tiny", "calip", "fixed", "all_classes"}
    assert run.config["method"]["head"]["beta2"] == 1.12
    assert run.config["seed"] == 0


def test_wandb_has_a_run_with_the_table_and_the_report_of_a_sweep(sweep):
    (offline,) = (sweep[0] / "output/wandb").glob("offline-run-*/run-*.wandb")
    run = read_offline_run(offline)
    assert (run.about.run_group, run.about.job_type) == ("digits-tiny", "report")
    assert {"report.html", "runs.csv", "table.md"} <= set(run.artifacts["report-digits-tiny"])
    (path,) = offline.parent.glob("files/media/table/runs_*.json")
    table = json.loads(path.read_text())
    found = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    expected = [json.loads((job / "result.json").read_text()) for job in jobs(sweep[0])[::2]]
    for key in ("method", "seed", "accuracy", "command"):
        assert [row[key] for row in found] == pytest.approx([one[key] for one in expected])


def test_a_run_on_stored_features_loads_no_clip_and_extracts_nothing(sweep, tmp_path):
    code = (
        "import runpy, sys; from PIL import Image; import torch\n"
        "def refuse(*_, **__): raise AssertionError('CLIP weights or an image were read')\n"
        "from src.data.images import ImageArrays; ImageArrays.load = refuse\n"
        "sys.argv = ['run', *sys.argv[1:]]\n"
        "runpy.run_module('src.run', run_name='__main__')\n"
        "assert 'open_clip' not in sys.modules\n"
        "assert 'lightning' in sys.modules\n"
    )
    arguments = [f"hydra.run.dir={tmp_path}/output", f"paths.features={sweep[0]}/features"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "method=calip", "logger=none"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "extracting" not in done.stdout
    expected = json.loads((jobs(sweep[0])[2] / "result.json").read_text())
    assert result(tmp_path)["accuracy"] == expected["accuracy"]


def test_validation_chooses_the_settings_and_the_test_split_is_marked(sweep, tmp_path):
    (tmp_path / "features").symlink_to(sweep[0] / "features")
    arguments = ("-m", "method=calip", "selection=val,val_few_shot,test", "logger=none", "shots=2")
    done = calipers(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    by_validation, few_shot, by_test = (
        json.loads((job / "result.json").read_text()) for job in jobs(tmp_path)
    )
    assert by_validation["validation_accuracy"] is not None
    assert (by_validation["shots"], few_shot["shots"]) == (0, 2)
    assert not by_validation["selected_on_test"]
    assert by_test["selected_on_test"]
    assert by_test["accuracy"] == pytest.approx(by_test["validation_accuracy"], abs=1e-4)
    assert by_test["accuracy"] >= by_validation["accuracy"]
    assert f"{by_test['accuracy']:.2f}†" in done.stdout
    assert "settings chosen on the test split" in done.stdout


def test_logits_of_a_whole_run_equal_the_plain_computation(tmp_path):
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(5, 16, generator=generator)
    features = {
        "global": torch.randn(23, 16, generator=generator).half(),
        "spatial": torch.randn(23, 7, 16, generator=generator).half(),
        "label": torch.randint(5, (23,), generator=generator),
    }
    (tmp_path / "classes.json").write_text(json.dumps(list("abcde")))
    (tmp_path / "meta.json").write_text('{"logit_scale": 100}')
    save_file({"text": text}, tmp_path / "text.safetensors")
    save_file(features, tmp_path / "test.safetensors")
    done = calipers(
        tmp_path, "method=calip", "dataset=precomputed", f"dataset.path={tmp_path}",
        "save_predictions=true", "logger=none", "batch_size=10", "method.head.beta3=0.4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predictions = load_file(tmp_path / "output/predictions.safetensors")
    assert torch.equal(predictions["label"], features["label"])
    assert predictions["logits"].dtype == torch.float32
    images = zip(features["global"].tolist(), features["spatial"].tolist(), strict=True)
    expected = [plain.calip(f, s, text.tolist(), 100.0, 2.0, 1.12, 0.4) for f, s in images]
    np.testing.assert_allclose(
        predictions["logits"].numpy() / 100, np.array(expected) / 100, atol=1e-5
    )
    right = predictions["logits"].argmax(dim=1) == features["label"]
    assert result(tmp_path)["accuracy"] == pytest.approx(100 * right.double().mean().item())
    per_class = [right[features["label"] == c].double().mean().item() for c in range(5)]
    assert result(tmp_path)["mean_class_accuracy"] == pytest.approx(100 * np.mean(per_class))


@needs_shared
def test_real_photographs_go_through_a_224_pixel_resnet_once(tmp_path):
    (tmp_path / "data/dtd").mkdir(parents=True)
    (tmp_path / "data/dtd/images").symlink_to(SHARED / "dtd/images")
    split = tmp_path / "data/dtd/split_zhou_DescribableTextures.json"
    content = json.loads((SHARED / "dtd/split_subset.json").read_text())
    content["test"] = content["test"][::8]
    split.write_text(json.dumps(content))
    arguments = ("method=calip", "dataset=dtd", "backbone=rn50", "backbone.pretrained=null")
    first = calipers(tmp_path, *arguments, "logger=none")
    assert first.returncode == 0, first.stderr
    assert "extracting dtd/test: 20 images with RN50-quickgelu-random" in first.stdout
    assert result(tmp_path)["hyperparameters"]["beta2"] == 1.12, (
        "the settings for dtd are those of RN50"
    )
    second = calipers(tmp_path, *arguments, "logger=none")
    assert second.returncode == 0, second.stderr
    assert "extracting" not in second.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=eurosatt"], "no dataset called 'eurosatt'. Did you mean eurosat?"),
        (["method=calp"], "Did you mean calip"),
        (["shotss=3"], "no key 'shotss'. Did you mean shots?"),
        (["method.head.beta=3"], "method.head.beta2"),
        (["nonsense"], "nonsense"),
        (["shots=0"], "shots=0"),
        (["shots=two"], "shots=two"),
        (["seed=-1"], "seed=-1"),
        (["dataset=precomputed"], "give `dataset.path=...`"),
        (["dataset=precomputed", "dataset.path=/nowhere"], "/nowhere is missing"),
        (["dataset=dtd"], "data/dtd is missing"),
        (["selection=val_few_shot", "shots=10000"], "shots=10000 is more than the data holds"),
        (["backbone.architecture=local-dir:/nowhere"], "/nowhere"),
        (
            ["backbone=vit_b32", "backbone.pretrained=src/clip/tiny/model.safetensors"],
            "does not hold weights of ViT-B-32-quickgelu",
        ),
        (["backbone=rn50", "backbone.architecture=RN50"], "architecture=RN50-quickgelu"),
    ],
)
def test_a_mistake_ends_in_one_message(tmp_path, arguments, message):
    assert message in refused(calipers(tmp_path, *arguments, "logger=none"))
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.glob("features/*/test-*"))


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "output").write_text("a file where the folder should be")
    assert str(tmp_path / "output") in refused(calipers(tmp_path))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "split_zhou_DescribableTextures.json").unlink(), "split file"),
        (
            lambda root: (root / "split_zhou_DescribableTextures.json").write_text('{"train": 1}'),
            "malformed: it holds no list called 'train'",
        ),
        (lambda root: (root / "images/b/b_0002.jpg").unlink(), "images/b/b_0002.jpg is missing"),
        (
            lambda root: (root / "images/b/b_0002.jpg").write_bytes(b"not a photograph"),
            "cannot decode the image",
        ),
        (lambda root: truncate(root / "images/b/b_0002.jpg"), "images/b/b_0002.jpg"),
    ],
)
def test_a_damaged_dataset_is_explained(tmp_path, break_it, message):
    break_it(replica.dtd(tmp_path / "data"))
    done = calipers(tmp_path, "dataset=dtd", "method=zero_shot", "logger=none", *replica.TINY)
    assert message in refused(done)
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.glob("features/dtd/test-*/*"))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("name", ["run", "prepare", "report", "dashboard", "depth_maps"])
def test_a_command_that_is_started_as_a_file_says_what_to_type(tmp_path, name):
    command = [sys.executable, str(ROOT / f"src/{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"python -m src.{name}" in refused(done)


def test_an_image_is_opened_as_rgb():
    images = ImageArrays(np.zeros((1, 4, 4), dtype=np.uint8), ["a"], {})
    assert images.load(Item("0", 0)).mode == "RGB"


def test_options_may_stand_behind_overrides_and_overrides_may_have_hyphens(sweep, tmp_path):
    (tmp_path / "features").symlink_to(sweep[0] / "features")
    done = run("src.run", *below(tmp_path), "--method=zero_shot", "-m", "--seed=1,2", "logger=none")
    assert done.returncode == 0, done.stderr
    assert len(jobs(tmp_path)) == 2


@pytest.mark.parametrize("flag", [(), ("-m",)], ids=["run", "sweep"])
def test_a_working_directory_that_hydra_changes_moves_no_path(sweep, tmp_path, flag):
    """`hydra.job.chdir=true` would put the store into the run's folder, and lose the journal."""
    start = os.path.relpath(tmp_path, ROOT)
    (tmp_path / "features").symlink_to(sweep[0] / "features")
    done = run(
        "src.run", *flag, "hydra.job.chdir=true", "method=zero_shot", "logger=none",
        f"hydra.run.dir={start}/output", f"hydra.sweep.dir={start}/output",
        f"paths.features={start}/features",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "extracting" not in done.stdout
    assert len(list(tmp_path.glob("output/**/result.json"))) == 1
    assert not list(tmp_path.glob("output/**/features"))


def test_one_process_within_a_slurm_allocation_of_several_tasks_is_one_process(sweep, tmp_path):
    (tmp_path / "features").symlink_to(sweep[0] / "features")
    slurm = {
        "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
    }  # fmt: skip
    done = run("src.run", *below(tmp_path), "method=zero_shot", "logger=none", **slurm)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path)["n_test"] == 720
