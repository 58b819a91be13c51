import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from src.config import compose
from src.errors import UserError
from src.features.precomputed import PrecomputedFeatures
from src.job.assembly import make_source
from tests import replica
from tests.cli import calipers, refusal, refused, result
from tests.shared import SHARED, needs_shared

TINY = (*replica.TINY, "logger=none")


@pytest.fixture
def letters(tmp_path):
    """Write ten images of noise into a folder for each of three classes."""
    generator = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / "letters" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"letters/{name}/{number}.jpg")
    return tmp_path / "letters"


def test_a_folder_of_classes_goes_through_a_few_shot_method(tmp_path, letters):
    arguments = (
        "method=tip_adapter", "dataset=folder", f"dataset.path={letters}", "dataset.name=mine",
        "shots=2", "method.support.crops=1", *TINY,
    )  # fmt: skip
    done = calipers(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    found = result(tmp_path)
    assert (found["dataset"], found["n_test"], found["n_classes"]) == ("mine", 9, 3)
    assert found["validation_accuracy"] is not None
    assert "extracting" not in calipers(tmp_path, *arguments).stdout
    redivided = calipers(tmp_path, *arguments, "dataset.split_seed=1")
    assert "extracting mine/test: 9 images" in redivided.stdout


def test_prompts_of_each_class_replace_the_templates(tmp_path, letters):
    same = {name: [f"a photo of the letter {name}."] for name in "abc"}
    arguments = (
        "method=zero_shot", "dataset=folder", f"dataset.path={letters}", *TINY,
        "save_predictions=true",
    )  # fmt: skip
    logits = []
    for prompts in (None, same, same | {"a": same["b"], "b": same["a"]}):
        (tmp_path / "prompts.json").write_text(json.dumps(prompts))
        setting = [] if prompts is None else [f"dataset.prompts={tmp_path}/prompts.json"]
        done = calipers(tmp_path, *arguments, *setting)
        assert done.returncode == 0, done.stderr
        logits.append(load_file(tmp_path / "output/predictions.safetensors")["logits"])
    by_templates, by_class, exchanged = logits
    assert by_class.equal(by_templates)
    assert exchanged.equal(by_templates[:, [1, 0, 2]])
    assert not exchanged.equal(by_templates)


@needs_shared
def test_real_photographs_of_ones_own_go_through_a_resnet(tmp_path):
    images = SHARED / "dtd/images"
    classes = sorted(path.name for path in images.iterdir())
    rows = [
        f"{path.relative_to(images)},{name},test"
        for name in classes
        for path in sorted((images / name).iterdir())[:2]
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    prompts = {name: [f"A {name} texture.", f"The surface is {name}."] for name in classes}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    done = calipers(
        tmp_path, "method=calip", "dataset=folder", f"dataset.path={images}",
        f"dataset.csv={tmp_path}/list.csv", f"dataset.prompts={tmp_path}/prompts.json",
        "dataset.name=textures", "backbone.pretrained=null", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "extracting textures/test: 20 images with RN50-quickgelu-random" in done.stdout
    assert (result(tmp_path)["n_test"], result(tmp_path)["n_classes"]) == (20, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=folder"], "Give `dataset.path=FOLDER`"),
        (["dataset=folder", "dataset.path=/nowhere"], "the folder /nowhere is missing"),
        (["dataset=folder", "dataset.csv=/nowhere.csv"], "cannot read /nowhere.csv"),
        (["dataset=digits", "dataset.prompts=/nowhere.json"], "cannot read /nowhere.json"),
    ],
)
def test_a_mistake_ends_in_one_message(tmp_path, arguments, message):
    assert message in refusal(tmp_path, *arguments, "logger=none")
    assert not (tmp_path / "features").exists()


def test_only_test_images_are_enough_for_methods_that_need_no_others(tmp_path, letters):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/test").symlink_to(letters)
    arguments = ("dataset=folder", f"dataset.path={tmp_path}/mine", *TINY)
    done = calipers(tmp_path, "method=zero_shot", *arguments)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path)["n_test"] == 30
    assert "folder has no train images" in refused(
        calipers(tmp_path, "method=tip_adapter", *arguments)
    )
    assert "folder has no val images" in refused(
        calipers(tmp_path, "method=calip", "selection=val", *arguments)
    )


def test_prompts_for_features_that_exist_are_refused():
    cfg = compose(["dataset=precomputed", "dataset.prompts=x.json"])
    with pytest.raises(UserError, match=r"dataset\.prompts changes nothing"):
        make_source(cfg, object.__new__(PrecomputedFeatures))
