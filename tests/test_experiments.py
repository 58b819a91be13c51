"""Every recipe in experiments/ states its purpose, composes, and runs at a small scale."""

import json
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from src.command_line import run_command
from src.config import compose
from src.files import CONFIG_DIR, ROOT
from src.job import sweep
from src.results.record import Result
from src.run import main
from tests import replica, replica_3d
from tests.cli import below, jobs

RECIPES = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
SHIFTS = ("imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r")
SMALLER = {
    "ablation_calip_betas": ["method.head.beta2=0.0,1.12", "method.head.beta3=0.0,0.02"],
    "ablation_tip_adapter_cache_size": ["++method.head.cache_size=1,2", "shots=2"],
    "ablation_tip_adapter_crops": ["++method.support.crops=1,2"],
    "calip_table_3d": ["dataset.prompts='${paths.data}/${dataset.name}.json'"],
    "solids_demo": [
        "++dataset.points=256",
        "++dataset.per_class={train: 2, val: 1, test: 1}",
        "++trainer.check_val_every_n_epoch=50",
    ],
    "offline_demo": ["dataset=digits,letters", "backbone=tiny", "shots=1"],
    "methods_2026_offline": ["dataset=digits", "shots=2", "++method.training.epochs=3"],
    "methods_2026": ["dataset=caltech101", "shots=2", "++method.training.epochs=3"],
    "unlabelled_images": ["dataset=caltech101", "stream.orders=2", "++method.test_crops.crops=4"],
    "unlabelled_images_offline": [
        "dataset=digits",
        "stream.orders=2",
        "++method.test_crops.crops=4",
    ],
    "base_to_new": ["++method.training.epochs=2"],
    "base_to_new_offline": ["dataset=digits", "shots=2", "++method.training.epochs=2"],
    "cross_dataset": ["eval_dataset=[caltech101]", "++method.training.epochs=2"],
    "validation_free": ["dataset=caltech101", "shots=2", "++method.training.epochs=3"],
}
"""What replaces the sweep's values where the replicas are too small for them."""


def recipe(name):
    return OmegaConf.load(ROOT / f"experiments/{name}.yaml")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_question_command_published_figures_and_what_was_verified(name):
    text = (ROOT / f"experiments/{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n# Question: ")
    assert f"\n# Command: python -m src.run +experiment={name}" in text
    assert "\n# Published: " in text
    assert "\n# Verified here: " in text
    assert recipe(name).group == name, "of its W&B runs, and its folder below outputs/"


@pytest.mark.parametrize("name", RECIPES)
def test_every_choice_of_a_recipe_exists(name):
    params = {
        key: str(values).split(",") for key, values in recipe(name).hydra.sweeper.params.items()
    }
    for group in ("dataset", "method", "protocol", "selection"):
        known = {path.stem for path in (CONFIG_DIR / group).glob("*.yaml")}
        assert set(params.get(group, [])) <= known
    compose([f"{key}={values[-1]}" for key, values in params.items()])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("imagenet", "caltech101", *SHIFTS):
        replica.make(name, folder, per_class=4, size=32, classes="abcd")
    classes = {
        "modelnet40": replica_3d.MODELNET10, "modelnet10": replica_3d.MODELNET10,
        "scanobjectnn": replica_3d.CLASSES,
    }  # fmt: skip
    replica_3d.modelnet(folder, replica_3d.MODELNET10, per_class=1, points=64)
    replica_3d.scanobjectnn(folder, per_class=2, points=64)
    for name, names in classes.items():
        replica_3d.prompts(folder / f"{name}.json", names)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_in_miniature(name, data, features, tmp_path, monkeypatch, capfd):
    params = recipe(name).hydra.sweeper.params
    few = ["imagenet", "caltech101"] if "caltech101" in params.get("dataset", "") else None
    arguments = [f"dataset={','.join(few)}"] if few else []
    arguments += ["shots=1"] if "shots" in params else ["++shots=1"]
    arguments += ["seed=1"] if "seed" in params else []
    embedded = (
        "demo", "offline_demo", "methods_2026_offline", "solids_demo", "base_to_new_offline",
        "unlabelled_images_offline",
    )  # fmt: skip
    on_replicas = [] if name in embedded else replica.TINY
    argv = [f"+experiment={name}", *below(tmp_path), f"paths.data={data}"]
    argv += [f"paths.features={features}", "logger=none", *on_replicas, *arguments]
    argv += SMALLER.get(name, [])
    monkeypatch.setattr(sys, "argv", ["run", *argv])
    GlobalHydra.instance().clear()
    with sweep.ending():
        run_command(main)
    journal = (tmp_path / "output/jobs.jsonl").read_text().splitlines()
    assert {json.loads(line)[2] for line in journal[1:]} == {"finished"}
    results = [Result.read(job / "result.json") for job in jobs(tmp_path)]
    assert len(results) == json.loads(journal[0])[0]
    assert {one.method for one in results} == set(str(params.method).split(","))
    if "eval_dataset" in recipe(name):
        for job in jobs(tmp_path):
            assert {path.name for path in (job / "eval").iterdir()} == set(SHIFTS)
    assert f"report in {tmp_path}/output/report/report.html" in capfd.readouterr().out
