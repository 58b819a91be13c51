"""`calibrate=temperature` and `conformal=`: whole runs, on features made up here and on images."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize_scalar

from src.classifier.classifier import load
from src.errors import UserError
from src.heads.zero_shot import ZeroShot
from src.job.calibrating import make_sets, restore
from src.methods.base import Answers, Method
from src.methods.checkpoint import Saved
from src.results import frame
from src.results.conformal import calibrate, figures, kept_apart, prediction_sets
from src.results.outcome import Outcome
from src.results.record import Result
from tests import replica
from tests.cli import calipers, jobs, refused, result
from tests.methods.metrics import Accuracy
from tests.methods.test_calibration import likelihood

CLASSES, WIDTH = 5, 16


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    """Make features of five classes up, of which zero-shot is much too sure."""
    folder = tmp_path_factory.mktemp("features")
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(CLASSES, WIDTH, generator=generator)

    def split(per_class):
        label = torch.arange(CLASSES).repeat_interleave(per_class)
        noise = torch.randn(len(label), WIDTH, generator=generator)
        return {"global": (text[label] + 2.5 * noise).half(), "label": label}

    (folder / "classes.json").write_text(json.dumps(list("abcde")))
    (folder / "meta.json").write_text(json.dumps({"logit_scale": 50, "backbone": "mine"}))
    save_file({"text": text}, folder / "text.safetensors")
    for name, per_class in (("train", 4), ("val", 30), ("test", 41)):
        save_file(split(per_class), folder / f"{name}.safetensors")
    return folder


def zero_shot(folder, split):
    """Compute logits by hand, and give the labels with them."""
    stored = load_file(folder / f"{split}.safetensors")
    head = ZeroShot(load_file(folder / "text.safetensors")["text"], 50.0)
    return head(stored["global"].float()), stored["label"]


def made(folder, features, *arguments):
    done = calipers(
        folder, *arguments, "dataset=precomputed", f"dataset.path={features}", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_a_run_is_calibrated_on_validation_images_and_its_sets_on_half_of_the_test(
    features, tmp_path
):
    done = made(
        tmp_path, features, "method=zero_shot", "calibrate=temperature", "selection=val",
        "conformal=aps", "coverage=0.8", "seed=3", "save_predictions=true",
    )  # fmt: skip
    found = Result.read(tmp_path / "output/result.json")
    logits, label = zero_shot(features, "val")
    best = minimize_scalar(lambda log: likelihood(logits, label, math.exp(log)), bounds=(-5, 5))
    temperature = found.calibration["temperature"]
    assert temperature == pytest.approx(math.exp(best.x), rel=1e-3)
    assert found.calibration == {"temperature": temperature, "selection": "val", "images": 150}
    assert (found.selection, found.shots) == ("fixed", 0)
    logits, label = zero_shot(features, "test")
    predictions = load_file(tmp_path / "output/predictions.safetensors")
    torch.testing.assert_close(predictions["logits"], logits / temperature)
    outcome = Outcome.read(tmp_path / "output/outcome.safetensors")
    probabilities = (logits / temperature).softmax(dim=1).numpy()
    np.testing.assert_allclose(outcome.confidence, probabilities.max(axis=1), rtol=1e-5)
    assert found.metrics["nll"] == pytest.approx(likelihood(logits, label, temperature), rel=1e-5)
    assert found.metrics["nll"] < likelihood(logits, label, 1.0) / 2
    # The other metrics are those of the whole test split, the sets those of the other half.
    assert found.n_test == len(label)
    label = label.numpy()
    apart = kept_apart(label, 3)
    sets = calibrate(probabilities[apart], label[apart], "aps", 0.8)
    assert found.conformal == sets | {"threshold": pytest.approx(sets["threshold"], rel=1e-4)}
    assert found.conformal["images"] == apart.sum() == CLASSES * 20
    rest = figures(prediction_sets(probabilities[~apart], sets), label[~apart], 0.8)
    assert {name: found.metrics[name] for name in rest} == pytest.approx(rest, abs=1.0)
    assert f"{found.metrics['mean_set_size']:.2f}" in done.stdout


def test_without_calibration_the_same_run_has_neither(features, tmp_path):
    done = made(tmp_path, features, "method=zero_shot")
    found = result(tmp_path)
    assert (found["calibration"], found["conformal"]) == ({}, {})
    assert not {"coverage", "mean_set_size"} & found["metrics"].keys()
    logits, label = zero_shot(features, "test")
    assert found["metrics"]["nll"] == pytest.approx(likelihood(logits, label, 1.0), rel=1e-5)
    assert "coverage" not in done.stdout


def test_a_sweep_draws_the_halves_by_the_seed_and_the_report_has_a_row_for_each_way(
    features, tmp_path
):
    made(
        tmp_path, features, "-m", "method=zero_shot,gda", "calibrate=temperature",
        "selection=val_few_shot", "conformal=lac", "shots=2", "seed=1,2",
    )  # fmt: skip
    found = [Result.read(job / "result.json") for job in jobs(tmp_path)]
    assert len({one.config_hash for one in found}) == 4
    assert [one.shots for one in found] == [2] * 4, "zero_shot was shown labelled images too"
    assert {one.calibration["images"] for one in found} == {2 * CLASSES}
    assert found[0].metrics["coverage"] != found[1].metrics["coverage"]
    assert found[0].accuracy == found[1].accuracy
    assert not list(tmp_path.glob("output/*/predictions.safetensors")), "kept for the sets alone"
    page = (tmp_path / "output/report/report.html").read_text()
    assert "<dt>coverage gap</dt>" in page
    assert "<dt>temperature</dt>" in page
    assert ">set size<" in page.split("<h2>All runs</h2>")[1]
    made(
        tmp_path / "plain", features, "-m", "method=zero_shot,gda", "selection=val_few_shot",
        "shots=2", "seed=1",
    )  # fmt: skip
    both = frame.load([tmp_path / "output", tmp_path / "plain/output"]).frame
    labels = set(both["label"])
    assert {label for label in labels if "calibrate=" not in label} == {"zero_shot", "gda"}
    assert len(labels) == 4


def test_a_checkpoint_keeps_its_temperature(features, tmp_path):
    training = ("method=clip_adapter", "method.training.epochs=2", "shots=2")
    made(tmp_path, features, *training, "calibrate=temperature", "selection=val")
    trained = result(tmp_path)
    (tmp_path / "output").rename(tmp_path / "trained")
    path = tmp_path / "trained/checkpoint.ckpt"
    made(tmp_path, features, "method=clip_adapter", f"ckpt_path={path}")
    again = result(tmp_path)
    for same in ("calibration", "metrics"):
        assert again[same] == trained[same]
    content = torch.load(path, weights_only=True)
    content["result"]["calibration"] = {"temperature": "hot"}
    torch.save(content, path)
    done = calipers(
        tmp_path, "method=clip_adapter", f"ckpt_path={path}", "dataset=precomputed",
        f"dataset.path={features}", "logger=none",
    )  # fmt: skip
    assert "its temperature is no positive number" in refused(done)


@pytest.mark.parametrize("calibration", ["x", [1], {}, {"on": 1}, {"temperature": 2.5}])
def test_the_temperature_of_a_checkpoint_is_a_number(calibration):
    method = Method(ZeroShot(torch.eye(3), 1.0), Accuracy())
    saved = Saved(Path("c.ckpt"), {"calibration": calibration}, None, {})
    if calibration in ({}, {"temperature": 2.5}):
        assert restore(method, saved) == calibration
        assert method.temperature == (calibration or {"temperature": 1.0})["temperature"]
        return
    with pytest.raises(UserError, match=r"ckpt_path=c\.ckpt: its temperature"):
        restore(method, saved)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_the_temperature_of_a_checkpoint_is_positive(temperature):
    saved = Saved(Path("c.ckpt"), {"calibration": {"temperature": temperature}}, None, {})
    with pytest.raises(UserError, match="no positive number"):
        restore(Method(ZeroShot(torch.eye(3), 1.0), Accuracy()), saved)


def test_without_a_second_image_of_any_class_sets_are_made_and_not_measured(caplog):
    from src.config import compose

    label = torch.arange(3)
    answers = Answers({}, {"logits": torch.eye(3), "label": label})
    sets, found = make_sets(compose(["conformal=lac"]), answers)
    assert (sets["threshold"], sets["images"], found) == (None, 3, {})
    assert "each set holds all classes" in caplog.text
    assert "no image is left" in caplog.text


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Adapt on a replica of ImageNet that is hard to read, and evaluate on two shifts."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("imagenet", "imagenet_v2", "imagenet_a"):
        replica.make(name, folder / "data", per_class=8, size=8, classes="coilj")
    done = calipers(
        folder, "method=zero_shot", "dataset=imagenet", "eval_dataset=imagenet_v2,imagenet_a",
        *replica.TINY, "selection=val", "calibrate=temperature", "conformal=lac",
        "coverage=0.8", "save_predictions=true", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_under_a_shift_temperature_and_sets_are_those_of_the_dataset_adapted_on(pictures):
    own = Result.read(pictures / "output/result.json")
    for name in ("imagenet_v2", "imagenet_a"):
        folder = pictures / "output/eval" / name
        found = Result.read(folder / "result.json")
        assert (found.calibration, found.conformal) == (own.calibration, own.conformal)
        predictions = load_file(folder / "predictions.safetensors")
        probabilities = predictions["logits"].softmax(dim=1).numpy()
        label = predictions["label"].numpy()
        expected = figures(prediction_sets(probabilities, own.conformal), label, 0.8)
        assert {metric: found.metrics[metric] for metric in expected} == pytest.approx(expected)
        confidence = Outcome.read(folder / "outcome.safetensors").confidence
        np.testing.assert_allclose(confidence, probabilities.max(axis=1), rtol=1e-5)


def test_the_classifier_is_as_sure_as_the_run_was_and_knows_its_sets(pictures):
    own = Result.read(pictures / "output/result.json")
    classifier = load(pictures / "output")
    assert classifier.about.temperature == own.calibration["temperature"] != 1.0
    assert classifier.about.conformal == own.conformal
    images = sorted((pictures / "data").glob("imagenet/images/val/*/*.*"))
    outcome = Outcome.read(pictures / "output/outcome.safetensors")
    probabilities = classifier.predict_proba(images)
    assert probabilities.argmax(axis=1).tolist() == outcome.prediction.tolist()
    np.testing.assert_allclose(probabilities.max(axis=1), outcome.confidence, rtol=1e-4)
