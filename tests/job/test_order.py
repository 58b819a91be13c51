"""What a sweep extracts before its jobs, and what each worker is given."""

import importlib.util
import os
import re
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from src.job import launching, order
from src.job.order import Extraction
from tests import cli, replica
from tests.cli import calipers, refused


def launched(monkeypatch, jobs, finished=()):
    """List what the launcher is given first, for jobs of which nothing is in the store."""
    calls = []

    def launch(_, task, overrides):
        calls.append((task, overrides))
        return [[Extraction(group[0], ["entry"], len(group))] for group in task.groups]

    monkeypatch.setattr(order, "_launch", launch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "Extract", lambda _, extractions: SimpleNamespace(groups=[]))
        order.extract_first(OmegaConf.create(), jobs, finished)
    return calls


def sweep(**choices):
    lists = [[f"{key}={value}" for value in values] for key, values in choices.items()]
    return [list(job) for job in product(*lists)]


def test_each_dataset_and_backbone_is_planned_by_itself_and_the_largest_extraction_comes_first(
    monkeypatch,
):
    jobs = sweep(dataset=("digits", "letters"), method=("gda", "calip"), seed=(1, 2))
    jobs += sweep(dataset=("digits",), backbone=("rn50",), method=("gda", "calip", "tip_adapter"))
    jobs += sweep(dataset=("dtd",), method=("gda",))
    (plan, _), (_, extracted) = launched(monkeypatch, jobs)
    assert [[number for number, _ in group] for group in plan.groups] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10],
    ]  # fmt: skip
    assert extracted == [jobs[0], jobs[4], jobs[8]]


def test_jobs_that_are_finished_and_those_that_share_nothing_need_no_extraction(monkeypatch):
    jobs = sweep(method=("gda", "calip"), dataset=("digits", "letters"), seed=(1, 2))
    of_digits = [number for number, job in enumerate(jobs) if "dataset=digits" in job]
    (plan, _), _ = launched(monkeypatch, jobs, of_digits)
    assert [number for number, _ in plan.groups[0]] == [2, 3, 6, 7]
    assert launched(monkeypatch, jobs, range(len(jobs))) == []
    assert launched(monkeypatch, sweep(dataset=("digits", "letters"), seed=(1,))) == []


def test_jobs_that_run_without_what_came_first_still_run(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("the cluster is gone")

    monkeypatch.setattr(order, "_launch", fail)
    order.extract_first(OmegaConf.create(), sweep(method=("gda", "calip")))
    assert "the cluster is gone" in caplog.text
    assert "each job extracts what it needs" in caplog.text


def config(launcher, n_jobs=-1, **trainer):
    node = {"_target_": f"somewhere.{launcher}", "n_jobs": n_jobs}
    return OmegaConf.create({"hydra": {"launcher": node}, "trainer": {"devices": 1, **trainer}})


def test_without_the_extra_the_message_says_how_to_get_it(tmp_path):
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    done = calipers(tmp_path, "-m", "seed=1,2", "hydra/launcher=ray")
    assert "pip install 'calipers[ray]'" in refused(done)


@pytest.fixture
def four_gpus(tmp_path, monkeypatch):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nfor i in a b c d; do echo GPU-$i; done\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_joblib_starts_as_many_jobs_as_there_are_gpus(four_gpus, monkeypatch):
    def n_jobs(*given, **trainer):
        prepared = config("JoblibLauncher", *given, **trainer)
        launching.prepare(prepared)
        return prepared.hydra.launcher.n_jobs

    assert n_jobs() == 4
    assert n_jobs(6) == 6, "what is given counts"
    assert n_jobs(accelerator="cpu") == -1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert n_jobs() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert n_jobs() == -1


WORKER = """
import os, sys
from pathlib import Path
from src.job import launching
launching._take_gpu(Path(sys.argv[1]))
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


def test_workers_spread_over_the_gpus_and_leave_their_place_when_they_end(four_gpus, tmp_path):
    def begin():
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, tmp_path], cwd=cli.ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return worker, worker.stdout.readline().strip()

    workers, places = zip(*(begin() for _ in range(5)), strict=True)
    try:
        assert places == ("GPU-a", "GPU-b", "GPU-c", "GPU-d", "GPU-a")
        workers[2].kill()
        workers[2].communicate()
        successor, place = begin()
        assert place == "GPU-c"
        successor.communicate("")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_without_a_launcher_each_entry_is_extracted_once_before_the_first_job(tmp_path):
    """CALIP's features of test images serve zero_shot too, which comes before it."""
    sweep = ("-m", "method=zero_shot,calip,gda", "shots=1,2", "logger=none")
    done = calipers(tmp_path, *sweep)
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition("[1/6]")
    extracted = re.findall(r"extracting digits/(\w+): \d+ images", before)
    assert sorted(extracted) == [*["support"] * 2, "test", *["val_few_shot"] * 2]
    assert "extracting" not in after
    entries = [path.name for path in tmp_path.glob("features/digits/*") if path.is_dir()]
    assert len([name for name in entries if not name.startswith("text-")]) == len(extracted)
    assert len([*tmp_path.glob("output/*/result.json")]) == 4  # two methods see no shots
    assert not [*tmp_path.glob("output/.features")]

    (tmp_path / "features").rename(tmp_path / "elsewhere")
    again = calipers(tmp_path, *sweep)
    assert again.stdout.count("found in") == 6
    assert "extracting" not in again.stdout, "finished jobs need nothing"


def test_what_fails_before_the_jobs_is_told_by_the_job_that_needs_it(tmp_path):
    replica.dtd(tmp_path / "data", per_class=2)
    damaged = sorted(tmp_path.glob("data/dtd/images/*/*.jpg"))
    for path in damaged:
        path.write_bytes(b"no photograph")
    done = calipers(
        tmp_path, "-m", "method=zero_shot,calip", "dataset=digits,dtd", *replica.TINY,
        "logger=none", "shots=1",
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("cannot decode the image") == 1


@pytest.mark.slow
def test_joblib_extracts_everything_once_and_first_and_no_job_waits(tmp_path):
    sweep = ("-m", "method=zero_shot,gda,calip", "shots=1,2", "logger=none")
    two = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = calipers(tmp_path, *sweep, *two)
    assert done.returncode == 0, done.stderr
    before, _, jobs = done.stdout.partition("[1/6]")
    extracted = re.findall(r"extracting digits/(\w+): \d+ images", before)
    assert sorted(extracted) == [*["support"] * 2, "test", *["val_few_shot"] * 2]
    assert "extracting" not in jobs
    assert "waiting" not in done.stdout
