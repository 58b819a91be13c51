"""`eval_dataset`: a run adapts on one dataset and evaluates on others."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from src.config import build, compose
from src.data.images import ImageArrays, ImageFiles
from src.errors import UserError
from src.heads.transclip import TransClip
from src.job.shift import find_classes
from src.results.record import Result
from src.store.entry import open_entry
from tests import replica
from tests.cli import calipers, refused

FAMILY = ("imagenet", "imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r")


def named(*names, ids=None):
    return ImageFiles("unused", names, {}, ids)


def test_classes_are_found_by_name_whatever_their_order():
    assert find_classes(named("c", "a b"), named("a_b", "b", "c"), "other") == [2, 0]


def test_identifiers_go_before_names_that_repeat():
    adapted = named("crane", "crane", "maillot", ids=["n1", "n2", "n3"])
    assert find_classes(named("crane", "maillot", ids=["n2", "n3"]), adapted, "a") == [1, 2]
    with pytest.raises(UserError, match=r"eval_dataset=mine .* just once: 'crane'"):
        find_classes(named("crane"), adapted, "mine")


def test_a_class_that_was_not_adapted_to_is_named():
    digits = ImageArrays(np.zeros((1, 1, 1), np.uint8), ("one",), {})
    with pytest.raises(UserError, match="'ones' \\(did you mean 'one'"):
        find_classes(named("ones"), digits, "mine")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Adapt Tip-Adapter-F on ImageNet's replica and evaluate it on the four shifts."""
    folder = tmp_path_factory.mktemp("cross")
    for name in FAMILY:
        replica.make(name, folder / "data", per_class=4)
    done = calipers(
        folder, "method=tip_adapter_f", "dataset=imagenet", f"eval_dataset={','.join(FAMILY[1:])}",
        *replica.TINY, "shots=2", "save_predictions=true", "method.training.epochs=2",
        "logger=csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "output", done


def test_one_run_adapts_on_imagenet_and_evaluates_on_its_shifts(run):
    output, done = run
    own = Result.read(output / "result.json")
    assert (own.dataset, own.adapted_on) == ("imagenet", "imagenet")
    for name in FAMILY[1:]:
        found = Result.read(output / "eval" / name / "result.json")
        assert (found.dataset, found.adapted_on) == (name, "imagenet")
        assert (found.shots, found.hyperparameters) == (own.shots, own.hyperparameters)
        assert found.accuracy >= 60, "chance is 33 % or 50 %"
        assert f"\n{name} " in done.stdout
    assert (output / "csv/metrics.csv").read_text().count("accuracy") > 0


def test_imagenet_a_is_scored_only_over_its_own_classes(run):
    output, _ = run
    own = json.loads((output / "result.json").read_text())
    found = json.loads((output / "eval/imagenet_a/result.json").read_text())
    predictions = load_file(output / "eval/imagenet_a/predictions.safetensors")
    assert found["n_classes"] < own["n_classes"]
    assert predictions["logits"].shape == (found["n_test"], found["n_classes"])
    right = predictions["logits"].argmax(1) == predictions["label"]
    assert 100 * right.mean() == pytest.approx(found["accuracy"], abs=1e-4)


def test_images_that_are_looked_at_together_are_not_drawn_by_classes_that_are_not_there(
    run, tmp_path
):
    data = run[0].parent / "data"
    done = calipers(
        tmp_path, "method=transclip", "dataset=imagenet", "eval_dataset=imagenet_a", *replica.TINY,
        "logger=none", "save_predictions=true", f"paths.data={data}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text, scale = stored(tmp_path / "features/imagenet", "text")
    image, _ = stored(tmp_path / "features/imagenet_a", "global")
    found = load_file(tmp_path / "output/eval/imagenet_a/predictions.safetensors")["logits"]
    wanted, known = (names_of(data, name) for name in ("imagenet_a", "imagenet"))
    assert len(wanted.class_names) < len(known.class_names)
    classes = find_classes(wanted, known, "imagenet_a")
    expected = TransClip(text[classes], scale)(image.float())
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
    record = Result.read(tmp_path / "output/eval/imagenet_a/result.json")
    right = (image.float() @ text[classes].T).argmax(dim=1).numpy()
    label = load_file(tmp_path / "output/eval/imagenet_a/predictions.safetensors")["label"]
    assert record.zero_shot == pytest.approx(100 * (right == label).mean())


def stored(folder, name):
    """Read the one entry of a dataset that holds a tensor, and its logit scale if it is a text."""
    for path in folder.iterdir():
        entry = open_entry(path) if path.is_dir() else None
        if entry is not None and name in entry.names:
            return entry.tensor(name), float(entry.manifest["made_by"].get("logit_scale", 0))
    raise AssertionError(f"there is no {name} in {folder}")


def names_of(data, name):
    cfg = compose([f"dataset={name}"])
    cfg.paths.data = str(data)
    return build(cfg.dataset.reader)


def test_a_sweep_keeps_them_in_one_job_and_apart_in_the_table(run, tmp_path):
    data = run[0].parent / "data"
    done = calipers(
        tmp_path, "-m", "method=zero_shot,calip", "dataset=imagenet",
        "eval_dataset=imagenet_v2,imagenet_r", *replica.TINY, "logger=none", f"paths.data={data}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("output/*/result.json"))) == 2
    summary = (tmp_path / "output/report/table.md").read_text()
    assert "imagenet, tiny" in summary
    assert "imagenet → imagenet_r, tiny" in summary


def test_a_damaged_image_elsewhere_is_told_before_anything_is_trained(run, tmp_path):
    shutil.copytree(run[0].parent / "data", tmp_path / "data")
    image = next((tmp_path / "data/imagenet-adversarial/imagenet-a").glob("*/*.jpg"))
    image.write_bytes(b"none")
    done = calipers(
        tmp_path, "method=tip_adapter_f", "dataset=imagenet", "eval_dataset=imagenet_a",
        *replica.TINY, "shots=2", "logger=csv",
    )  # fmt: skip
    assert f"cannot decode the image {image}" in refused(done)
    assert not list(tmp_path.glob("output/**/metrics.csv")), "nothing was trained"


def test_point_clouds_elsewhere_are_seen_in_as_many_views(tmp_path):
    done = calipers(
        tmp_path, "method=zero_shot", "dataset=solids", "dataset.views=10", "eval_dataset=solids",
        "dataset.per_class={train: 1, val: 1, test: 30}", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    own = Result.read(tmp_path / "output/result.json")
    assert Result.read(tmp_path / "output/eval/solids/result.json").accuracy == own.accuracy


def test_the_same_dataset_again_gives_the_same_metrics_for_a_head_that_keeps_state(tmp_path):
    done = calipers(
        tmp_path, "method=zero_shot", "method.head._target_=tests.job.growing.Growing",
        "dataset=digits", "eval_dataset=digits", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    own = Result.read(tmp_path / "output/result.json")
    again = Result.read(tmp_path / "output/eval/digits/result.json")
    assert again.metrics == own.metrics
    plain = calipers(tmp_path / "plain", "method=zero_shot", "dataset=digits", "logger=none")
    assert plain.returncode == 0, plain.stderr
    assert Result.read(tmp_path / "plain/output/result.json").metrics != own.metrics


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("solids", "what is adapted to images cannot be evaluated on point clouds"),
        ("imagenet_v9", "there is no dataset called 'imagenet_v9'"),
        ("letters", "eval_dataset=letters has classes that the adapted dataset"),
        ("precomputed", "eval_dataset=precomputed needs settings of its own"),
        ("eurosat", "eval_dataset=eurosat: the dataset folder"),
    ],
)
def test_a_dataset_that_cannot_be_evaluated_on_stops_the_run_at_once(tmp_path, name, message):
    done = calipers(tmp_path, "dataset=digits", f"eval_dataset={name}")
    assert message in refused(done)
    assert not (tmp_path / "output/result.json").exists()
