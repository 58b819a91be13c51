"""Sweeps by Ray, in an environment of its own: the extra [ray] does not go with the lock."""

import os
import re
import signal
import subprocess
import sysconfig
import time
import tomllib
import venv
from pathlib import Path

import pytest

from tests import cli
from tests.cli import ROOT, below, finish, jobs, refused
from tests.job.test_sweep import accuracies, statuses

pytestmark = pytest.mark.slow

SWEEP = ("-m", "method=gda,calip,tip_adapter,zero_shot", "shots=1", "logger=none")
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
cluster.add_node(num_cpus=1, num_gpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
"""Two nodes, each with a processor and a GPU, or what Ray takes for one."""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Install what the project and its extra need over the packages of this environment."""
    folder = tmp_path_factory.mktemp("ray")
    venv.create(folder, with_pip=True)
    own = sysconfig.get_path("purelib", vars={"base": folder, "platbase": folder})
    Path(own, "beside.pth").write_text(sysconfig.get_path("purelib"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["ray"]]
    done = subprocess.run(
        [folder / "bin/python", "-m", "pip", "install", "--quiet", *wanted],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if re.search("No matching distribution|Connection|Max retries", done.stderr):
        pytest.skip("pip reaches no registry that has Ray")
    assert done.returncode == 0, done.stderr
    return folder / "bin/python"


@pytest.fixture(scope="module")
def address(python):
    """Start a cluster of two nodes on this machine."""
    process = subprocess.Popen(
        [python, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    yield process.stdout.readline().strip()
    process.communicate("", timeout=60)


def start(python, folder, address, *arguments):
    """Start a sweep on the cluster."""
    return subprocess.Popen(
        [
            python, "-m", "src.run", *arguments, *below(folder),
            "hydra/launcher=ray", f"hydra.launcher.ray.init.address={address}",
        ],
        cwd=ROOT, env=cli.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def extractions(output):
    return re.findall(r"extracting (\S+): \d+ images", output)


def test_a_killed_sweep_ends_as_with_joblib(python, address, tmp_path):
    own, theirs = tmp_path / "ray", tmp_path / "joblib"
    process = start(python, own, address, *SWEEP)
    journal = own / "output/jobs.jsonl"
    deadline = time.monotonic() + 200
    while not journal.exists() or journal.read_text().count("\n") < 2:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in own.glob("output/*/result.json")}
    assert 1 <= len(finished) < 4

    done = finish(start(python, own, address, *SWEEP))
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    assert len(re.findall(r"\[\d/4\] method=", done.stdout)) == 4
    assert "UserWarning" not in done.stderr
    entries = [path.name for path in own.glob("features/digits/*") if path.is_dir()]
    of_images = [name for name in entries if not name.startswith("text-")]
    assert len(extractions(output + done.stdout)) == len(of_images)
    assert extractions(output + done.stdout).count("digits/test") == 1, "CALIP's serve all methods"
    assert "waiting" not in output + done.stdout

    done = finish(cli.start("src.run", *SWEEP, *below(theirs), "hydra/launcher=joblib"))
    assert done.returncode == 0, done.stderr
    assert accuracies(own) == pytest.approx(accuracies(theirs))
    tables = [(folder / "output/report/table.md").read_text() for folder in (own, theirs)]
    # Its rows are in the order in which the jobs began.
    assert sorted(tables[0].splitlines()) == sorted(tables[1].splitlines())


def test_a_failed_job_is_listed_and_two_share_a_gpu(python, address, tmp_path):
    sweep = ("-m", "method=zero_shot", "dataset=digits,letters,dtd", "logger=none")
    fraction = "hydra.launcher.ray.remote.num_gpus=0.5"
    done = finish(start(python, tmp_path, address, *sweep, fraction))
    assert "3 of 3 jobs ended, 1 of them in failure" in refused(done)
    assert "data/dtd is missing" in done.stderr
    assert statuses(tmp_path) == ["finished", "finished", "failed"]
    assert (jobs(tmp_path)[2] / "failure.json").exists()
