"""Every few-shot method through the real command line, on the embedded default."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.results.record import Result
from tests.caltech101 import CLASSES
from tests.cli import calipers, jobs, refusal, result, run
from tests.shared import SHARED, needs_shared

METHODS = (
    "zero_shot", "calip", "tip_adapter", "clip_adapter", "linear_probe", "tip_adapter_f",
    "calip_fs", "calip_fs_paper", "coop",
)  # fmt: skip
TRAINED = {"clip_adapter", "tip_adapter_f", "calip_fs", "calip_fs_paper", "coop"}
DISTINCT_CROPS = {
    "clip_adapter": 100, "tip_adapter_f": 20, "calip_fs": 10, "calip_fs_paper": 10, "coop": 100,
}  # fmt: skip
"""Fresh crops in each epoch, but for methods that need the features of all positions."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few_shot")
    done = calipers(
        folder, "-m", f"method={','.join(METHODS)}", "shots=4", "seed=0", "logger=csv",
        "save_predictions=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done


def job(folder, method):
    return jobs(folder)[METHODS.index(method)]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_says_what_it_did(sweep, method):
    found = Result.read(job(sweep[0], method) / "result.json")
    assert found.method == method
    assert found.shots == (0 if method in {"zero_shot", "calip"} else 4)
    assert found.accuracy > 70
    assert (found.trainable_parameters > 0) == (method in TRAINED)
    assert (found.epochs > 0) == (method in TRAINED)
    assert (job(sweep[0], method) / "checkpoint.ckpt").exists() == (method in TRAINED)
    assert found.distinct_crops == DISTINCT_CROPS.get(method, 0)
    assert not found.selected_on_test
    searched = method in {"tip_adapter", "tip_adapter_f", "linear_probe"}
    assert (found.selection == "val_few_shot") == searched or "calip_fs" in method
    assert f"| {method} |" in (sweep[0] / "output/report/table.md").read_text()


@pytest.mark.parametrize("method", sorted(TRAINED))
def test_the_learning_curve_is_in_the_csv(sweep, method):
    with (job(sweep[0], method) / "csv/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"]]
    curve = [row for row in rows if row["validation_accuracy"]]
    epochs = Result.read(job(sweep[0], method) / "result.json").epochs
    assert len(losses) == epochs
    assert len(curve) >= epochs
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("method", ["tip_adapter_f", "coop"])
def test_a_checkpoint_gives_the_same_figures_without_training(sweep, tmp_path, method):
    (tmp_path / "features").symlink_to(sweep[0] / "features")
    first = job(sweep[0], method)
    done = calipers(
        tmp_path, f"method={method}", "logger=none", "save_predictions=true",
        f"ckpt_path={first}/checkpoint.ckpt",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Epoch" not in done.stdout
    expected, found = json.loads((first / "result.json").read_text()), result(tmp_path)
    same = (
        "accuracy", "ece", "hyperparameters", "selection", "validation_accuracy", "shots", "seed",
        "epochs", "distinct_crops",
    )  # fmt: skip
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    logits = load_file(tmp_path / "output/predictions.safetensors")["logits"]
    assert torch.equal(logits, load_file(first / "predictions.safetensors")["logits"])


@pytest.mark.parametrize("method", ["tip_adapter_f", "calip_fs"])
def test_a_seed_makes_a_run_repeatable_bit_for_bit(sweep, tmp_path, method):
    (tmp_path / "features").symlink_to(sweep[0] / "features")
    arguments = (f"method={method}", "shots=4", "seed=0", "logger=none", "save_predictions=true")
    done = calipers(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    again = load_file(tmp_path / "output/predictions.safetensors")["logits"]
    assert torch.equal(
        again, load_file(job(sweep[0], method) / "predictions.safetensors")["logits"]
    )


def test_a_run_does_not_depend_on_whether_its_features_were_stored(sweep, tmp_path):
    """The sweep found the features of clip_adapter in the store; here they are extracted first."""
    arguments = ("method=clip_adapter", "shots=4", "seed=0", "logger=none", "save_predictions=true")
    done = calipers(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "extracting digits/support" in done.stdout
    cold = load_file(tmp_path / "output/predictions.safetensors")["logits"]
    warm = load_file(job(sweep[0], "clip_adapter") / "predictions.safetensors")["logits"]
    assert torch.equal(cold, warm)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=tip_adapter", "shots=500"], "shots=500 is more than the data holds"),
        (["method=coop", "ckpt_path={tip_adapter_f}"], "of method=tip_adapter_f, not of coop"),
        (
            ["method=tip_adapter_f", "shots=2", "ckpt_path={tip_adapter_f}"],
            "shots=2: ckpt_path={tip_adapter_f} was made with shots=4",
        ),
        (["method=tip_adapter_f", "ckpt_path=/nowhere.ckpt"], "/nowhere.ckpt is missing"),
        (
            ["method=clip_adapter", "shots=2", "method.module.optimizer.lr=1e30"],
            "try a lower method.module.optimizer.lr",
        ),
        (["method=tip_adapter", "method.support.crops=0"], "method.support"),
        (["method=coop", "method.training.epochs=1"], "epochs=1 must be more than warmup_epochs"),
        (["method=coop", "method.head.n_context=40"], "n_context=40"),
    ],
)
def test_a_mistake_ends_in_one_message(sweep, tmp_path, arguments, message):
    (tmp_path / "features").symlink_to(sweep[0] / "features")
    checkpoint = job(sweep[0], "tip_adapter_f") / "checkpoint.ckpt"
    *arguments, message = [
        one.replace("{tip_adapter_f}", str(checkpoint)) for one in [*arguments, message]
    ]
    assert message in refusal(tmp_path, *arguments, "logger=none")
    assert not (tmp_path / "output/result.json").exists()


@pytest.fixture
def precomputed(tmp_path):
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "classes.json").write_text('["a", "b", "c"]')
    (tmp_path / "meta.json").write_text('{"logit_scale": 100}')
    save_file({"text": torch.randn(3, 8, generator=generator)}, tmp_path / "text.safetensors")
    for split in ("train", "val", "test"):
        content = {
            "global": torch.randn(30, 8, generator=generator),
            "label": torch.arange(30) % (2 if split == "train" else 3),
        }
        save_file(content, tmp_path / f"{split}.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("method", "message"),
    [("tip_adapter", "no image of 'c'"), ("coop", "through CLIP's text tower")],
)
def test_what_precomputed_features_lack_is_named(precomputed, method, message):
    arguments = (f"method={method}", "dataset=precomputed", f"dataset.path={precomputed}")
    assert message in refusal(precomputed, *arguments, "shots=2", "logger=none")


@needs_shared
def test_tip_adapter_on_real_features_gives_the_known_figures(tmp_path):
    source = SHARED / "clip_features"
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    for shots in (1, 2, 4, 8, 16):
        done = run(
            "src.features.from_tip_adapter", source / "caltech101_vit_b32", tmp_path / f"k{shots}",
            "--classes", tmp_path / "classes.json", "--shots", shots,
            "--text", source / "text_vit_b32/lvis_names.npy",
            "--text-names", source / "text_vit_b32/lvis_names.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = calipers(
        tmp_path, "-m", "method=tip_adapter", "shots=1,2,4,8,16", "selection=fixed",
        "dataset=precomputed", f"dataset.path={tmp_path}/k${{shots}}", "logger=none",
        "method.head.alpha=3.0", "method.head.beta=1.0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads((one / "result.json").read_text())["accuracy"] for one in jobs(tmp_path)]
    assert found == pytest.approx([98.51, 98.38, 98.75, 97.51, 97.26], abs=0.13)


def test_validation_free_takes_one_setting_for_all_datasets_and_says_so(tmp_path):
    """On digits, tip_adapter has published settings, which the protocol does not look up."""
    done = calipers(tmp_path, "method=tip_adapter", "selection=validation_free", "logger=none")
    assert done.returncode == 0, done.stderr
    found = result(tmp_path)
    assert (found["selection"], found["settings_from"]) == ("validation_free", "defaults")
    assert found["validation_accuracy"] is None
    assert f"{found['accuracy']:.2f}¶" in done.stdout
    assert "¶ validation-free" in done.stdout


def test_other_prompts_have_the_zero_shot_accuracy_beside_them(tmp_path):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({n: [f"a photo of the letter {n}."] for n in "0123456789"}))
    arguments = ("logger=none", f"dataset.prompts={prompts}")
    done = calipers(tmp_path, "method=zero_shot", *arguments)
    assert done.returncode == 0, done.stderr
    zero_shot = result(tmp_path)
    assert zero_shot["zero_shot"] == pytest.approx(zero_shot["accuracy"])
    done = calipers(tmp_path, "method=tip_adapter", "shots=1", *arguments)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path)["zero_shot"] == zero_shot["zero_shot"]
    assert "zero-shot" in done.stdout
    done = calipers(tmp_path, "method=zero_shot", "logger=none")
    assert result(tmp_path)["zero_shot"] is None
