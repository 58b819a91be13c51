import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.errors import UserError
from src.results.frame import load, task_of
from src.results.summary import summarise
from tests.results.test_record import RESULT


def run(folder: Path, config=None, **changes):
    """Leave behind what a run does, made up."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config or {"seed": changes.get("seed", 0)}, folder / ".hydra/config.yaml")
    OmegaConf.save([f"seed={changes.get('seed', 0)}", "a=b c"], folder / ".hydra/overrides.yaml")
    replace(RESULT, **changes).write(folder)


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


def test_ways_of_selection_are_kept_apart(tmp_path):
    run(tmp_path / "0", selection="val")
    run(tmp_path / "1", selection="test", selected_on_test=True)
    run(tmp_path / "2", method="zero_shot", selection="fixed")
    labels = list(load([tmp_path]).frame["label"])
    assert labels == ["calip (val)", "calip (test)", "zero_shot"]


def test_results_on_other_datasets_are_found_below_their_run(tmp_path):
    for name in ("0", "1"):
        run(tmp_path / name, {"seed": 0, "method": {"lr": int(name)}})
        replace(RESULT, dataset="letters").write(tmp_path / name / "eval/letters")
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
