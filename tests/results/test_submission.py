import json
import re
from dataclasses import replace

import pytest

from src.errors import UserError
from src.results import frame, submission, summary
from src.results.published import OPENAI_RN50
from tests.cli import ROOT
from tests.results.test_formats import NASTY
from tests.results.test_record import RESULT, made_up

PRIVATE = replace(
    RESULT,
    architecture="local-dir:/home/jane/models/tiny",
    settings_from="tiny on digits (/home/jane/settings.yaml)",
    command="python -m src.run method=calip dataset.path=/home/jane/a paths.data=~jane/b shots=4 "
    "logger.wandb.entity=jane name=jane tags=[jane] 'prompts=[../jane/c]' dataset.root=jane/d "
    "ckpt_path=C:\\\\jane method.settings.x=https://u:jane@host/y",
    hyperparameters={"file": "file:///home/jane/e", "nested": {"token": "jane"}},
    machine={"system": "Linux x86_64"},
)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_is_written_names_no_path_no_secret_and_no_user(tmp_path):
    PRIVATE.write(tmp_path / "jane/run")
    file = tmp_path / "results.jsonl"
    assert submission.submit([tmp_path], file) == 1
    text = file.read_text()
    assert "jane" not in text
    assert "/home" not in text
    (line,) = lines(file)
    assert line["architecture"] == "local-dir:tiny"
    assert line["settings_from"] == "tiny on digits (…)"
    assert line["command"].split()[3:6] == ["method=calip", "'dataset.path=…'", "shots=4"]
    assert line["metrics"] == RESULT.metrics
    assert line["weights"] == "0f"
    assert line["machine"] == {"system": "Linux x86_64"}
    assert "published_by_source" not in line


def test_what_is_read_is_what_was_written(tmp_path):
    for seed in (1, 2):
        made_up(80.0 + seed, seed=seed, shots=4).write(tmp_path / str(seed))
    file = tmp_path / "results.jsonl"
    submission.submit([tmp_path], file)
    found, message = submission.read(file)
    assert message == ""
    assert [one.result for one in found] == [
        made_up(80.0 + seed, seed=seed, shots=4) for seed in (1, 2)
    ]
    assert [one.place for one in found] == [f"{file}, line {number}" for number in (1, 2)]


def test_what_was_published_is_looked_up_and_never_believed(tmp_path):
    backbone, weights = OPENAI_RN50
    openai = {"backbone": backbone, "weights": weights, "published_by_source": {"a": 1.0}}
    of_eurosat = {"dataset": "eurosat", "adapted_on": "eurosat", "method": "zero_shot"}
    written = made_up(37.0, **openai, **of_eurosat, published=1.0)
    file = tmp_path / "results.jsonl"
    content = json.loads(submission._line(written)) | {"published_by_source": {"a": 1.0}}
    file.write_text(json.dumps(content))
    ((result, *_),), _ = submission.read(file)
    assert result.published_by_source == {"b": 37.52, "a": 37.54, "d": 37.56, "e": 36.07}
    assert result.published == 37.52


GOOD = json.loads(submission._line(RESULT))


@pytest.mark.parametrize(
    "wrong",
    [
        "{", "[]", "null", '"a"', "[" * 100_000, " " * 9 + "x" * 70_000, "{}",
        json.dumps(GOOD | {"format": "other"}),
        json.dumps(GOOD | {"metrics": {}}),
        json.dumps(GOOD | {"metrics": {"accuracy": 101.0}}),
        json.dumps(GOOD | {"metrics": {"accuracy": 50.0, "nll": float("nan")}}),
        json.dumps(GOOD | {"method": "m" * 101}),
        json.dumps(GOOD | {"dataset": ""}),
        json.dumps(GOOD | {"backbone": 3}),
        json.dumps(GOOD | {"shots": -1}),
        json.dumps(GOOD | {"shots": "4"}),
        json.dumps(GOOD | {"version": 99}),
        json.dumps(GOOD | {"version": "2"}),
        json.dumps(GOOD | {"started_at": 4}),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_malformed_line_is_left_out_with_its_file_and_number(tmp_path, caplog, wrong):
    file = tmp_path / "results.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{wrong}\n{wrong}\n")
    runs = frame.load([file])
    assert len(runs.frame) == 1
    (left_out,) = runs.unfinished
    assert f"{file}, line 3 " in left_out.message
    assert "Nor are 1 other lines: 4." in left_out.message
    assert len(caplog.messages) == 1
    assert len(left_out.message) < 1_000


def test_files_that_are_no_text_or_missing_end_in_one_message(tmp_path):
    file = tmp_path / "results.jsonl"
    with pytest.raises(UserError, match=r"results.jsonl cannot be read: No such file"):
        frame.load([file])
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"results.jsonl cannot be read: it is no UTF-8"):
        frame.load([file])
    file.write_text("")
    with pytest.raises(UserError, match=r"no readable result\.json"):
        frame.load([file])


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        (
            "python -m src.run method=calip 'a=$(rm x)'",
            "python -m src.run method=calip 'a=$(rm x)'",
        ),
        ("python -m src.run method=calip; rm x", "python -m src.run 'method=calip;' rm x"),
        ("rm -rf x", ""),
        ("python -m src.run +callbacks.x._target_=os.system", ""),
        ("python -m src.run 'open", ""),
        (f"python -m src.run {'a=b ' * 1000}", ""),
    ],
)
def test_of_a_strangers_command_only_a_run_is_kept(tmp_path, command, kept):
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(GOOD | {"command": command}))
    (found,), _ = submission.read(file)
    assert found.result.command == kept


def write(file, *results):
    submission.write(results, file)
    return file


def test_files_and_folders_are_merged_seed_by_seed(tmp_path):
    made_up(80.0, seed=1, shots=4).write(tmp_path / "runs/1")
    other = write(tmp_path / "other.jsonl", made_up(82.0, seed=2, shots=4))
    third = write(tmp_path / "third.jsonl", made_up(84.0, seed=3, shots=4))
    runs = frame.load([tmp_path / "runs", other, third])
    assert list(runs.frame["measured_by"]) == ["", str(other), str(third)]
    assert not runs.notes
    (cell,) = summary.summarise(runs.frame)["cell"]
    assert (cell.mean, cell.seeds) == (82.0, 3)


def test_duplicates_count_once_and_are_named_once(tmp_path, caplog):
    made_up(80.0, seed=1, shots=4).write(tmp_path / "runs/1")
    file = write(tmp_path / "other.jsonl", *2 * [made_up(80.0, seed=1, shots=4)])
    runs = frame.load([tmp_path / "runs", file])
    assert list(runs.frame["measured_by"]) == [""]
    (note,) = runs.notes
    assert note == (
        f"In several places (the folders, {file}), and counted once: "
        "calip on digits (tiny, shots=4, seed=1)."
    )
    assert not caplog.messages


def test_contradictions_are_named_once_and_what_was_run_here_counts(tmp_path, caplog):
    made_up(80.0, seed=1, shots=4, started_at="2027-01-01T00:00:00+00:00").write(tmp_path / "r/1")
    file = write(tmp_path / "other.jsonl", made_up(81.0, seed=1, shots=4))
    again = write(tmp_path / "again.jsonl", made_up(81.0, seed=1, shots=4))
    runs = frame.load([tmp_path / "r", file, again])
    assert list(runs.frame["accuracy"]) == [80.0]
    (note,) = runs.notes
    assert f"81.00 ({file}, line 1)" in note
    assert f"81.00 ({again}, line 1)" in note
    assert "80.00 (" in note
    assert caplog.messages == [note]
    of_files = frame.load([file, again])
    assert len(of_files.frame) == 1


def test_other_weights_of_the_same_name_are_another_backbone(tmp_path):
    made_up(80.0).write(tmp_path / "runs/1")
    file = write(tmp_path / "other.jsonl", made_up(10.0, weights="tiny/sha256:0123456789abcdef"))
    runs = frame.load([tmp_path / "runs", file])
    assert list(runs.frame["backbone"]) == ["tiny", "tiny [sha256:01234567]"]
    assert not runs.notes


def test_settings_that_were_given_tell_runs_of_a_file_apart(tmp_path):
    file = write(
        tmp_path / "other.jsonl",
        made_up(80.0, command="python -m src.run method=calip paths.data=x a.beta=1"),
        made_up(81.0, command="python -m src.run method=calip a.beta=2"),
    )
    assert set(frame.load([file]).frame["label"]) == {"calip (beta=1)", "calip (beta=2)"}


@pytest.mark.parametrize("name", NASTY)
def test_a_strangers_name_is_only_a_name(tmp_path, name):
    from src.results import page

    tags = []
    for number, written in enumerate(["plain", name]):
        file = write(
            tmp_path / str(number) / "a.jsonl",
            made_up(
                dataset=written, adapted_on=written, method=written, backbone=written,
                weights=written, machine={"processor": written}, git_revision=written,
                settings_from=written, precision=written, versions={"torch": written},
            ),
        )  # fmt: skip
        text = page.write_report([file], file.parent / "r").read_text()
        tags.append(re.findall("<[a-z/]+", text))
    assert tags[0] == tags[1]


def test_names_too_long_for_a_file_system_are_shortened(tmp_path):
    from src.results import page

    name = "名" * 100
    file = write(
        tmp_path / "a.jsonl",
        *(
            made_up(dataset=name, adapted_on=name, method=name, backbone=name, shots=shots)
            for shots in (1, 2)
        ),
    )
    page.write_report([file], tmp_path / "r")
    assert len(list(tmp_path.glob("r/figures/*.svg"))) == 1


def test_the_projects_own_files_are_whole():
    files = sorted((ROOT / "results").glob("*.jsonl"))
    assert files
    for file in files:
        found, message = submission.read(file)
        assert found
        assert message == ""
