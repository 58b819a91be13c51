"""Sweeps that fail, are killed, are started again, or are spread over processes."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest

from src.results.record import VERSION, Result
from tests import cli, replica
from tests.cli import below, calipers, finish, jobs, refused, start
from tests.results import VERSION_1

TOO_HIGH = "1e30"
"""A learning rate with which the loss becomes NaN."""


def statuses(folder):
    lines = (folder / "output/jobs.jsonl").read_text().splitlines()[1:]
    return [status for _, _, status in sorted(map(json.loads, lines))]


def accuracies(folder):
    return {
        path.parent.name: json.loads(path.read_text())["accuracy"]
        for path in (folder / "output").glob("*/result.json")
    }


def test_failing_jobs_do_not_stop_the_others_and_a_restart_runs_only_them(tmp_path):
    sweep = (
        "-m", "method=clip_adapter", "dataset=digits,dtd", *replica.TINY, "shots=1", "logger=none",
        "method.training.epochs=3", f"++method.module.optimizer.lr=1e-3,{TOO_HIGH}",
    )  # fmt: skip
    done = calipers(tmp_path, *sweep)
    assert "4 of 4 jobs ended, 3 of them in failure" in refused(done)
    assert statuses(tmp_path) == ["finished", "failed", "failed", "failed"]
    assert done.stderr.count("data/dtd is missing") == 1
    commands = [line for line in done.stderr.splitlines() if line.startswith("    python -m ")]
    assert sum(" dataset=dtd " in command for command in commands) == 2
    assert "the loss became nan" in done.stderr
    assert f"hydra.sweep.dir={tmp_path}/output" in done.stderr
    assert "1 min left" not in done.stdout

    replica.dtd(tmp_path / "data", per_class=2)
    again = calipers(tmp_path, *sweep)
    assert "4 of 4 jobs ended, 2 of them in failure" in refused(again)
    assert statuses(tmp_path) == ["skipped", "failed", "finished", "failed"]
    mended = jobs(tmp_path)[2]
    assert not (mended / "failure.json").exists()
    assert (jobs(tmp_path)[3] / "failure.json").exists()

    forced = calipers(tmp_path, *sweep, "force=true")
    assert refused(forced)
    assert statuses(tmp_path) == ["finished", "failed", "finished", "failed"]


def test_a_bug_keeps_its_traceback_and_the_sweep_goes_on(tmp_path):
    done = calipers(
        tmp_path, "-m", "method=tip_adapter", "dataset=digits", "shots=1", "logger=none",
        "method.search.inner.steps=nonsense,20",
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" in done.stdout + done.stderr
    assert "1 of them in failure" in done.stderr
    assert statuses(tmp_path) == ["failed", "finished"]


SWEEP = ("-m", "method=zero_shot,calip,linear_probe", "shots=1,2", "logger=csv")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = calipers(folder, *SWEEP)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_killed_sweep_ends_as_if_it_had_not_been(undisturbed, tmp_path):
    process = start("src.run", *SWEEP, *below(tmp_path), "hydra/launcher=joblib")
    journal = tmp_path / "output/jobs.jsonl"
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_text().count("\n") < 3:
        assert time.monotonic() < deadline, "no two jobs of the sweep ended"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # returns only when the launcher's processes have ended too
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("output/*/result.json")}
    assert 2 <= len(finished) < 6

    done = calipers(tmp_path, *SWEEP)
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path).count("skipped") == len(finished)
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    assert accuracies(tmp_path) == accuracies(undisturbed[0])
    own, theirs = (folder / "output/report/table.md" for folder in (tmp_path, undisturbed[0]))
    assert own.read_text() == theirs.read_text()


@pytest.fixture
def earlier(tmp_path):
    """Copy a sweep that was finished when records had version 1."""
    shutil.copytree(VERSION_1, tmp_path / "output")
    return tmp_path


def start_again(folder):
    """Start the fixture's sweep again, with the command in the first line of `jobs.jsonl`."""
    command = json.loads((VERSION_1 / "jobs.jsonl").read_text().splitlines()[0])[2].split()
    sweep = [word for word in command[3:] if not word.startswith("hydra.")]
    return calipers(folder, *sweep, "logger=none")


def test_a_sweep_that_an_earlier_version_finished_is_finished(earlier):
    folders = sorted(path.name for path in VERSION_1.iterdir() if path.is_dir())
    done = start_again(earlier)
    assert done.returncode == 0, done.stderr
    assert statuses(earlier) == ["skipped"] * 12
    assert jobs(earlier)[0].name == "digits-tiny-zero_shot-1-1-2e051ec475ccd11a"
    assert f"found in {jobs(earlier)[0]}" in done.stdout
    output = earlier / "output"
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == folders
    table = (output / "report/table.md").read_text()
    assert table == (VERSION_1 / "report/table.md").read_text()


def test_what_an_earlier_version_did_not_finish_is_run_and_stands_in_the_same_rows(earlier):
    chosen = [0, 6, 9]  # one job of each method
    removed = [jobs(earlier)[number] for number in chosen]
    before = [Result.read(job / "result.json") for job in removed]
    for job in removed:
        shutil.rmtree(job)
    done = start_again(earlier)
    assert done.returncode == 0, done.stderr
    expected = ["finished" if number in chosen else "skipped" for number in range(12)]
    assert statuses(earlier) == expected
    for number, old in zip(chosen, before, strict=True):
        new = Result.read(jobs(earlier)[number] / "result.json")
        assert (old.version, new.version) == (1, VERSION)
        assert (new.method, new.shots, new.seed) == (old.method, old.shots, old.seed)
        for name, value in old.metrics.items():
            assert new.metrics[name] == pytest.approx(value, rel=0.05), name
    table = (earlier / "output/report/table.md").read_text()
    methods = [line.split()[1] for line in table.splitlines() if line.startswith("| ")]
    assert methods == ["method", "---", "zero_shot", "tip_adapter", "clip_adapter"]


def test_what_an_earlier_version_did_with_other_settings_is_run_again(earlier):
    """The earlier version gave the settings of RN50 to every backbone."""
    config = jobs(earlier)[4] / ".hydra/config.yaml"
    config.write_text(config.read_text().replace("alpha: 50.0", "alpha: 1.17"))
    done = start_again(earlier)
    assert done.returncode == 0, done.stderr
    expected = ["finished" if number == 4 else "skipped" for number in range(12)]
    assert statuses(earlier) == expected


def test_a_job_of_the_same_version_counts_only_in_its_own_folder(earlier):
    """The folder is named after the configuration, which may differ for the same command."""
    for path in earlier.glob("output/*/result.json"):
        replace(Result.read(path), version=VERSION).write(path.parent)
    done = calipers(earlier, "-m", "method=zero_shot", "dataset=digits", "shots=1", "seed=1")
    assert done.returncode == 0, done.stderr
    assert statuses(earlier) == ["finished"]


def test_the_screen_says_how_far_the_sweep_is(undisturbed):
    lines = [line for line in undisturbed[1].stdout.splitlines() if line.startswith("[")]
    assert len(lines) == 6
    assert lines[0].startswith("[1/6] method=zero_shot shots=1: ")
    assert lines[5].startswith("[6/6] method=linear_probe shots=2: ")


@pytest.mark.slow
def test_joblib_shares_the_sweep_out_and_the_cores(undisturbed, tmp_path, monkeypatch):
    monkeypatch.delitem(cli.ENVIRONMENT, "OMP_NUM_THREADS")
    done = finish(start("src.run", *SWEEP, *below(tmp_path), "hydra/launcher=joblib"))
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == ["finished"] * 6
    assert accuracies(tmp_path) == pytest.approx(accuracies(undisturbed[0]))
    found = [json.loads((job / "result.json").read_text()) for job in jobs(tmp_path)]
    assert {one["threads"] for one in found} == {1}, "as many processes as cores"
    entries = [path.name for path in tmp_path.glob("features/digits/*") if path.is_dir()]
    of_images = [name for name in entries if not name.startswith("text-")]
    assert done.stdout.count(" images with tiny") == len(of_images), "extracted more than once"


@pytest.mark.slow
def test_submitit_runs_jobs_in_processes_of_their_own(undisturbed, tmp_path):
    (tmp_path / "features").symlink_to(undisturbed[0] / "features")
    done = calipers(
        tmp_path, "-m", "method=zero_shot", "dataset=digits,dtd", "logger=none",
        "hydra/launcher=submitit_local",
    )  # fmt: skip
    assert refused(done)
    assert "data/dtd is missing" in done.stderr
    assert statuses(tmp_path) == ["finished", "failed"]
    assert set(accuracies(tmp_path).values()) <= set(accuracies(undisturbed[0]).values())
