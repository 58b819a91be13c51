"""Sweeps that fail, are killed, are started again, or are spread over processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir

from src.files import CONFIG_DIR
from src.job.folder import claim
from src.job.sweep import Job, Journal, Started
from src.results.record import VERSION, Result
from tests import cli, replica
from tests.cli import below, calipers, finish, jobs, refused, start
from tests.offline_run import read_offline_run
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


SWEEP = ("-m", "method=gda,tip_adapter,linear_probe", "shots=1,2", "logger=csv")


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


def test_who_writes_into_the_journal_waits_for_its_turn(tmp_path):
    journal = Journal(tmp_path)
    journal.start(Started(1, 0.0, "command", "group"))
    line = Job(0, "folder", "finished")
    with ThreadPoolExecutor(1) as threads:
        with FileLock(journal.lock):
            adding = threads.submit(Journal(tmp_path).add, line)
            with pytest.raises(TimeoutError):
                adding.result(timeout=0.3)
            assert journal.read()[1] == []
        adding.result(timeout=5)
    assert journal.read()[1] == [line]


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


TRAINED = range(8, 12)
"""The fixture's jobs of clip_adapter, whose training repeated ten crops when it was made."""


def expect(finished):
    return ["finished" if number in finished else "skipped" for number in range(12)]


def test_a_sweep_that_an_earlier_version_finished_is_finished_but_for_what_it_trained(earlier):
    folders = {path.name for path in VERSION_1.iterdir() if path.is_dir()}
    done = start_again(earlier)
    assert done.returncode == 0, done.stderr
    assert statuses(earlier) == expect(finished=TRAINED)
    assert jobs(earlier)[0].name == "digits-tiny-zero_shot-1-1-2e051ec475ccd11a"
    assert f"found in {jobs(earlier)[0]}" in done.stdout
    made = {path.name for path in (earlier / "output").iterdir() if path.is_dir()} - folders
    assert made == {jobs(earlier)[number].name for number in TRAINED}
    own, theirs = (folder / "report/table.md" for folder in (earlier / "output", VERSION_1))
    present = own.read_text().partition("\nBold: ")[0].replace("**", "")  # it was not bold then
    for one, other in zip(present.splitlines(), theirs.read_text().splitlines(), strict=True):
        assert one == other or one.startswith("| clip_adapter")


@pytest.mark.slow
def test_what_an_earlier_version_did_not_finish_is_run_and_stands_in_the_same_rows(earlier):
    chosen = [0, 6]  # one job of each method that is not trained
    removed = [jobs(earlier)[number] for number in chosen]
    before = [Result.read(job / "result.json") for job in removed]
    for job in removed:
        shutil.rmtree(job)
    done = start_again(earlier)
    assert done.returncode == 0, done.stderr
    assert statuses(earlier) == expect(finished=[*chosen, *TRAINED])
    for number, old in zip(chosen, before, strict=True):
        new = Result.read(jobs(earlier)[number] / "result.json")
        assert (old.version, new.version) == (1, VERSION)
        assert (new.method, new.shots, new.seed) == (old.method, old.shots, old.seed)
        for name, value in old.metrics.items():
            assert new.metrics[name] == pytest.approx(value, rel=0.05), name
    table = (earlier / "output/report/table.md").read_text()
    methods = [line.split()[1] for line in table.splitlines() if line.startswith("| ")]
    assert methods == ["method", "---", "zero_shot", "tip_adapter", "clip_adapter"]


@pytest.mark.slow
def test_what_an_earlier_version_did_with_other_settings_is_run_again(earlier):
    """The earlier version gave the settings of RN50 to every backbone."""
    config = jobs(earlier)[4] / ".hydra/config.yaml"
    config.write_text(config.read_text().replace("alpha: 50.0", "alpha: 1.17"))
    done = start_again(earlier)
    assert done.returncode == 0, done.stderr
    assert statuses(earlier) == expect(finished=[4, *TRAINED])


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
    assert lines[0].startswith("[1/6] method=gda shots=1: ")
    assert lines[5].startswith("[6/6] method=linear_probe shots=2: ")


def test_a_folder_with_the_result_of_another_job_is_left_alone(tmp_path):
    """Numbered folders do not tell jobs apart: the second sweep runs beside what the first did."""
    numbered = ("logger=none", "hydra.sweep.subdir=${hydra.job.num}")
    first = calipers(tmp_path, "-m", "method=calip", "method.head.beta2=0,1", *numbered)
    assert first.returncode == 0, first.stderr
    before = {path: path.read_bytes() for path in tmp_path.glob("output/[01]/result.json")}
    kept = (tmp_path / "output/0/.hydra/config.yaml").read_bytes()
    second = ("-m", "method=tip_adapter", "shots=1,2", "seed=3", *numbered)
    done = calipers(tmp_path, *second)
    assert done.returncode == 0, done.stderr
    found = [Result.read(job / "result.json") for job in jobs(tmp_path)]
    assert [(one.method, one.shots, one.seed) for one in found] == [
        ("tip_adapter", 1, 3), ("tip_adapter", 2, 3),
    ]  # fmt: skip
    assert statuses(tmp_path) == ["finished", "finished"]
    assert len(before) == 2
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (tmp_path / "output/0/.hydra/config.yaml").read_bytes() == kept
    again = calipers(tmp_path, *second)
    assert again.returncode == 0, again.stderr
    assert statuses(tmp_path) == ["skipped", "skipped"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"metrics": 1}'])
def test_a_job_whose_result_is_damaged_is_run_again(tmp_path, content):
    sweep = ("-m", "method=zero_shot,calip", "logger=none")
    assert calipers(tmp_path, *sweep).returncode == 0
    damaged = jobs(tmp_path)[0] / "result.json"
    damaged.write_bytes(content)
    done = calipers(tmp_path, *sweep)
    assert done.returncode == 0, done.stderr
    assert "The job is run again" in done.stdout
    assert statuses(tmp_path) == ["finished", "skipped"]
    assert Result.read(damaged).method == "zero_shot"


def test_the_result_of_a_newer_version_is_left_alone(tmp_path):
    sweep = ("-m", "method=zero_shot", "logger=none")
    assert calipers(tmp_path, *sweep).returncode == 0
    path = jobs(tmp_path)[0] / "result.json"
    newer = json.dumps(json.loads(path.read_text()) | {"version": VERSION + 1})
    path.write_text(newer)
    assert calipers(tmp_path, *sweep).returncode == 0
    assert statuses(tmp_path) == ["finished"]
    assert path.read_text() == newer


@pytest.mark.parametrize("arguments", [("method=calip",), ("-m", "method=calip", "seed=1,2")])
def test_a_folder_belongs_to_one_process(tmp_path, arguments):
    with claim(tmp_path / "output", "-"):
        done = calipers(tmp_path, *arguments, "logger=none")
    assert "another process is at work in" in refused(done)
    assert [path.name for path in tmp_path.rglob("*.json*")] == []


def test_a_run_says_so_when_it_replaces_the_result_of_another(tmp_path):
    first, again, other = (
        calipers(tmp_path, f"method={method}", "logger=none")
        for method in ("zero_shot", "zero_shot", "calip")
    )
    told = "holds the result of another run, of method=zero_shot on dataset=digits: it is replaced"
    assert told not in first.stdout + again.stdout
    assert told in other.stdout


def test_runs_that_are_started_in_the_same_second_have_folders_of_their_own():
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        configs = [compose("config", return_hydra_config=True).hydra for _ in range(9)]
    assert len({config.run.dir for config in configs}) == 9
    assert len({config.sweep.dir for config in configs}) == 9


def test_a_partial_test_says_so_and_is_not_taken_for_a_whole_one(tmp_path):
    sweep = ("-m", "method=zero_shot", "logger=none")
    done = calipers(tmp_path, *sweep, "+trainer.limit_test_batches=1")
    assert done.returncode == 0, done.stderr
    part = Result.read(jobs(tmp_path)[0] / "result.json")
    assert (part.n_test, part.partial_test) == (256, True)
    assert f"{part.accuracy:.2f}§" in done.stdout

    done = calipers(tmp_path, *sweep)
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == ["finished"]
    whole = Result.read(jobs(tmp_path)[0] / "result.json")
    assert (whole.n_test, whole.partial_test) == (720, False)
    table = (tmp_path / "output/report/table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| zero_shot")]
    assert len(rows) == 2, "the partial test was averaged with the whole one"


def test_a_sweep_over_the_trainers_settings_is_several_jobs(tmp_path):
    done = calipers(
        tmp_path, "-m", "method=clip_adapter", "shots=1", "method.training.epochs=2",
        "+trainer.gradient_clip_val=0.000001,100", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len({*jobs(tmp_path)}) == 2
    for value in ("1e-06", "100"):
        assert f"clip_adapter (gradient_clip_val={value})" in done.stdout


def test_a_crash_in_the_middle_of_a_sweep_shows_its_reason_and_what_was_done(tmp_path):
    crash = (
        "import runpy, sys; import src.job.sweep as sweep\n"
        "run_job = sweep.run_job\n"
        "def crashing(cfg, run):\n"
        "    if cfg.method.name == 'calip': raise RuntimeError('the disk fell off')\n"
        "    return run_job(cfg, run)\n"
        "sweep.run_job = crashing\n"
        "sys.argv = ['run', *sys.argv[1:]]\n"
        "runpy.run_module('src.run', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", crash, "-m", "method=zero_shot,calip", "logger=none",
         *below(tmp_path)],
        cwd=cli.ROOT, env=cli.ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "RuntimeError: the disk fell off" in done.stderr
    assert "1 of 2 jobs ended" in done.stderr
    assert "report in" in done.stdout


@pytest.mark.parametrize("choice", ["glob(*demo)", "offline_demo,solids_demo"])
def test_a_sweep_over_recipes_that_are_sweeps_is_refused(tmp_path, choice):
    done = calipers(tmp_path, "-m", f"+experiment={choice}", "logger=none")
    assert "demo is a sweep of its own" in refused(done)
    assert not list(tmp_path.rglob("result.json"))


def test_one_checkpoint_is_one_run_and_its_seed_is_its_own(tmp_path):
    training = ("method=clip_adapter", "shots=1", "seed=5", "method.training.epochs=2")
    assert calipers(tmp_path, *training, "logger=none").returncode == 0
    trained = tmp_path / "trained"
    (tmp_path / "output").rename(trained)
    done = calipers(
        tmp_path, "-m", "method=clip_adapter", "seed=1,2,3", "logger=none",
        f"ckpt_path={trained}/checkpoint.ckpt",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == ["finished", "skipped", "skipped"]
    assert len({*jobs(tmp_path)}) == 1
    found = Result.read(jobs(tmp_path)[0] / "result.json")
    first = Result.read(trained / "result.json")
    assert (found.seed, found.shots, found.epochs) == (5, 1, 2)
    assert found.accuracy == first.accuracy
    assert "±" not in (tmp_path / "output/report/table.md").read_text()


def test_the_runs_of_a_sweep_over_datasets_share_a_group_with_the_sweep(tmp_path):
    done = calipers(tmp_path, "-m", "method=zero_shot", "dataset=digits,letters", "logger=wandb")
    assert done.returncode == 0, done.stderr
    runs = [read_offline_run(path) for path in tmp_path.rglob("run-*.wandb")]
    assert len(runs) == 3
    assert {run.about.run_group for run in runs} == {f"{tmp_path.name}/output"}


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
        tmp_path, "-m", "method=linear_probe", "shots=1", "dataset=digits,dtd", "logger=none",
        "hydra/launcher=submitit_local",
    )  # fmt: skip
    assert refused(done)
    assert "data/dtd is missing" in done.stderr
    assert statuses(tmp_path) == ["finished", "failed"]
    assert set(accuracies(tmp_path).values()) <= set(accuracies(undisturbed[0]).values())
