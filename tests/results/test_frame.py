import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.errors import UserError
from src.results.frame import load, task_of
from src.results.record import VERSION
from src.results.summary import summarise
from tests.results import VERSION_1
from tests.results.test_record import made_up


def run(folder: Path, config=None, overrides=("a=b c",), **changes):
    """Write the files that a run leaves, with invented content."""
    (folder / ".hydra").mkdir(parents=True)
    seed = changes.get("seed", 0)
    OmegaConf.save(config or {"seed": seed}, folder / ".hydra/config.yaml")
    OmegaConf.save([f"seed={seed}", *overrides], folder / ".hydra/overrides.yaml")
    made_up(**changes).write(folder)


def test_runs_come_in_natural_order_with_nested_fields_flattened(tmp_path):
    for number in (10, 2):
        run(tmp_path / str(number), seed=number, hyperparameters={"beta2": number})
    frame = load([tmp_path]).frame
    assert list(frame["seed"]) == [2, 10]
    assert list(frame["hyperparameters.beta2"]) == [2, 10]
    assert list(frame["folder"]) == [str(tmp_path / "2"), str(tmp_path / "10")]
    assert set(frame["label"]) == {"calip"}
    assert len(load([tmp_path, tmp_path / "2"]).frame) == 2


def test_only_runs_that_differ_in_their_seed_are_averaged(tmp_path):
    for number, (seed, beta2) in enumerate([(1, 0.5), (2, 0.5), (1, 2.0), (2, 2.0)]):
        config = {
            "seed": seed, "shots": seed, "method": {"head": {"beta2": beta2, "beta3": 1}},
            "paths": {"data": f"/{number}"}, "selection": {"name": "val"},
        }  # fmt: skip
        run(tmp_path / str(number), config, seed=seed, shots=4, accuracy=80.0 + number)
    cells = summarise(load([tmp_path]).frame)
    assert list(cells["label"]) == ["calip (beta2=0.5)", "calip (beta2=2.0)"]
    assert [cell.mean for cell in cells["cell"]] == [80.5, 82.5]


def test_settings_of_the_same_name_are_told_apart_and_interpolations_are_not_settings(tmp_path):
    for number in (1, 2):
        config = {
            "shots": number, "a": {"lr": number}, "b": {"lr": -number}, "path": "k${shots}",
        }  # fmt: skip
        run(tmp_path / str(number), config, shots=number)
    assert list(load([tmp_path]).frame["label"]) == [
        "calip (a.lr=1, b.lr=-1)", "calip (a.lr=2, b.lr=-2)",
    ]  # fmt: skip


def test_a_setting_that_the_code_looked_up_is_not_shown(tmp_path):
    for number, alpha in enumerate(("${settings:alpha,1.17}", 2.0)):
        run(tmp_path / str(number), {"method": {"head": {"alpha": alpha}}})
    assert list(load([tmp_path]).frame["label"]) == ["calip", "calip (alpha=2.0)"]


OLD = {"method": {"head": {"alpha": 1.17}, "support": {"views": 10}}, "backbone": {"batch": 256}}
NEW = {"method": {"head": {"alpha": "${settings:alpha,1.17}"}, "support": {"crops": 10}}}


def test_a_sweep_continued_by_a_later_version_has_one_row_per_method(tmp_path):
    for seed, (version, config) in enumerate([(1, OLD), (1, OLD), (2, NEW), (2, NEW)]):
        given = ("method=calip", "shots=4", "+logger=none", "paths.data=/data")
        run(tmp_path / str(seed), config, given[version - 1 :], seed=seed, shots=4, version=version)
    assert set(load([tmp_path]).frame["label"]) == {"calip"}


def test_between_versions_the_settings_that_the_user_gave_are_compared(tmp_path):
    plain = {"1": OLD, "2": NEW}
    for number, (version, alpha) in enumerate([(1, None), (1, 2.0), (2, None), (2, 2.0), (2, 3.0)]):
        config = OmegaConf.create(plain[str(version)])
        if alpha is not None:
            config.method.head.alpha = alpha
        given = () if alpha is None else (f"{'+' * version}method.head.alpha={alpha}",)
        run(tmp_path / str(number), config, given, version=version)
    assert list(load([tmp_path]).frame["label"]) == [
        "calip", "calip (alpha=2.0)", "calip", "calip (alpha=2.0)", "calip (alpha=3.0)",
    ]  # fmt: skip


def test_runs_of_one_version_that_differ_stay_apart_beside_those_of_another(tmp_path):
    """A recipe may set what no override names."""
    for number, epochs in enumerate([50, 100]):
        run(tmp_path / str(number), {"epochs": epochs}, ("+experiment=a",), version=1)
    run(tmp_path / "2", NEW, ("+experiment=a",))
    assert list(load([tmp_path]).frame["label"]) == [
        "calip (epochs=50)", "calip (epochs=100)", "calip",
    ]  # fmt: skip


def test_each_metric_has_a_column_which_is_empty_where_a_record_lacks_it(tmp_path):
    run(tmp_path / "0")
    frame = load([tmp_path, VERSION_1]).frame
    new = frame["version"] == VERSION
    assert list(frame["ece"][new]) == [0.1]
    assert list(frame["nll"][new]) == [0.7]
    assert frame["ece"].notna().all()
    assert frame["nll"][~new].isna().all()
    assert not [name for name in frame if name.startswith("metrics")]


def test_ways_of_selection_are_kept_apart(tmp_path):
    run(tmp_path / "0", selection="val")
    run(tmp_path / "1", selection="test", selected_on_test=True)
    run(tmp_path / "2", method="zero_shot", selection="fixed")
    labels = list(load([tmp_path]).frame["label"])
    assert labels == ["calip (val)", "calip (test)", "zero_shot"]


def test_results_on_other_datasets_are_found_below_their_run(tmp_path):
    for name in ("0", "1"):
        run(tmp_path / name, {"seed": 0, "method": {"lr": int(name)}})
        made_up(dataset="letters").write(tmp_path / name / "eval/letters")
    frame = load([tmp_path]).frame
    assert list(frame["dataset"]) == ["digits", "letters", "digits", "letters"]
    assert list(frame["label"]) == [f"calip (lr={n})" for n in (0, 0, 1, 1)]


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"dataset": "digits"}, "digits"),
        ({"dataset": "digits", "adapted_on": "digits"}, "digits"),
        ({"dataset": "digits", "adapted_on": None}, "digits"),
        ({"dataset": "letters", "adapted_on": "digits"}, "digits → letters"),
    ],
)
def test_a_head_tested_on_another_dataset_has_a_place_of_its_own(row, task):
    assert task_of(row) == task


def test_unfinished_jobs_are_listed_with_what_is_known(tmp_path, caplog):
    run(tmp_path / "0")
    run(tmp_path / "1")
    (tmp_path / "1/result.json").unlink()
    run(tmp_path / "2")
    (tmp_path / "2/result.json").unlink()
    failure = {"message": "shots=500 is more than the data holds", "command": "python -m src.run"}
    (tmp_path / "2/failure.json").write_text(json.dumps(failure))
    run(tmp_path / "3")
    (tmp_path / "3/result.json").write_text("{")
    runs = load([tmp_path])
    assert len(runs.frame) == 1
    by_folder = {Path(job.folder).name: job for job in runs.unfinished}
    assert by_folder["1"].command == "python -m src.run seed=0 'a=b c'"
    assert by_folder["1"].message == "no result"
    assert by_folder["2"][1:] == ("python -m src.run", "shots=500 is more than the data holds")
    assert "3/result.json is not the result of a run" in by_folder["3"].message
    assert "3/result.json is not the result of a run" in caplog.text


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize("content", [BOMB, "[" * 100_000, "- " * 100_000, "a: b: c", "3", "\xff"])
@pytest.mark.parametrize("name", ["config", "overrides"])
def test_a_run_whose_configuration_is_damaged_is_left_out_and_named(
    tmp_path, caplog, name, content
):
    for seed in (1, 2):
        run(tmp_path / str(seed), seed=seed)
    (tmp_path / f"2/.hydra/{name}.yaml").write_text(content, encoding="latin1")
    runs = load([tmp_path])
    assert list(runs.frame["seed"]) == [1]
    assert [unfinished.folder for unfinished in runs.unfinished] == [str(tmp_path / "2")]
    assert f"{name}.yaml cannot be read" in runs.unfinished[0].message
    assert f"{name}.yaml cannot be read" in caplog.text


def test_the_command_of_a_sweep_stands_for_its_runs(tmp_path):
    run(tmp_path / "sweep/0")
    run(tmp_path / "single")
    overrides = {"hydra": {"overrides": {"task": ["method=a,b", "seed=1,2"]}}}
    OmegaConf.save(overrides, tmp_path / "sweep/multirun.yaml")
    by_folder = load([tmp_path]).frame.set_index("folder")["made_by"]
    assert by_folder[str(tmp_path / "single")] == "python -m src.run"
    expected = "python -m src.run -m method=a,b seed=1,2"
    assert by_folder[str(tmp_path / "sweep/0")] == expected


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing is missing"):
        load([tmp_path / "nothing"])
    with pytest.raises(UserError, match=rf"no readable result.json below {tmp_path}"):
        load([tmp_path])


def test_the_protocol_has_a_place_of_its_own_and_is_in_no_label(tmp_path):
    usual = {"protocol": {"name": "all_classes", "imbalance": None}, "eval_dataset": []}
    halves = {"protocol": {"name": "base_to_new", "imbalance": None}, "eval_dataset": []}
    relaxed = {"protocol": {"name": "imbalanced", "imbalance": "relaxed"}, "eval_dataset": []}
    realistic = {"protocol": {"name": "imbalanced", "imbalance": "realistic"}, "eval_dataset": []}
    other = {"protocol": {"name": "cross_dataset", "imbalance": None}, "eval_dataset": ["letters"]}
    before = {"seed": 0}
    names = (
        "all_classes", "base_to_new", "imbalanced_relaxed", "imbalanced_realistic",
        "cross_dataset", "all_classes",
    )  # fmt: skip
    configs = (usual, halves, relaxed, realistic, other, before)
    for number, (name, config) in enumerate(zip(names, configs, strict=True)):
        own = {"seed": number, "method": {"lr": 1}, **config}
        given = ("protocol=imbalanced", "protocol.imbalance=realistic")
        run(tmp_path / str(number), own, given, protocol=name, seed=number, shots=4)
    frame = load([tmp_path]).frame
    assert list(frame["protocol"]) == list(names)
    assert set(frame["label"]) == {"calip"}


def test_settings_and_ways_of_selection_tell_runs_apart_within_a_protocol_only(tmp_path):
    for number, (name, rate, selection) in enumerate([
        ("all_classes", 1, "val"), ("base_to_new", 2, "fixed"), ("base_to_new", 3, "fixed"),
    ]):  # fmt: skip
        config = {"seed": 0, "method": {"lr": rate}}
        run(tmp_path / str(number), config, protocol=name, selection=selection)
    assert list(load([tmp_path]).frame["label"]) == ["calip", "calip (lr=2)", "calip (lr=3)"]


def test_published_accuracies_on_base_and_new_classes_are_looked_up(tmp_path):
    place = {"backbone": "vit_b16", "weights": "ViT-B-16-quickgelu/openai", "shots": 16}
    run(tmp_path / "0", dataset="dtd", method="coop", protocol="base_to_new", **place)
    run(tmp_path / "1", dataset="dtd", method="coop", **place)
    frame = load([tmp_path]).frame
    assert list(frame["published_by_source.g"][:1]) == [79.44]
    assert list(frame["published_new_by_source.g"][:1]) == [41.18]
    assert frame["published_new_by_source.g"][1:].isna().all()
