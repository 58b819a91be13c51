"""Many kills at random moments: the right exit code each time, and in the end the same results."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests import replica
from tests.cli import Forked, below, finish, run

KILLS = 12
"""Of each command below: four of them make forty-eight."""
LATEST = 0.5
"""A kill comes at most that share of the undisturbed time after the command has its folder."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
COMMANDS = {
    "extraction": ("method=calip", "dataset=dtd", *replica.TINY, "backbone.batch_size=1"),
    "fit": ("method=coop", "shots=1", "method.training.epochs=400", "selection=fixed"),
    "sweep": ("-m", "method=zero_shot,tip_adapter_f,coop", "shots=1,2", "selection=fixed"),
    "joblib": ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
               "method=zero_shot,tip_adapter_f,coop", "shots=1,2", "selection=fixed"),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    replica.dtd(folder, per_class=700)
    return folder


def command(folder: Path, data: Path, name: str) -> list[str]:
    own = [one for one in below(folder) if not one.startswith("paths.data")]
    return [*COMMANDS[name], *own, f"paths.data={data}", "logger=csv"]


def accuracies(folder: Path) -> dict[str, dict[str, float]]:
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text())["metrics"]
        for path in folder.rglob("result.json")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments_a_command_ends_as_if_undisturbed(tmp_path, data, name):
    begun = time.monotonic()
    undisturbed = run("src.run", *command(tmp_path / "one", data, name))
    latest = LATEST * (time.monotonic() - begun)
    assert undisturbed.returncode == 0, undisturbed.stderr
    generator = random.Random(name)
    killed = 0
    for number in range(KILLS):
        sent = SIGNALS[number % len(SIGNALS)]
        process = Forked("src.run", *command(tmp_path / "two", data, name))
        # Before the command has its folder, Hydra is being set up. A sweep plans and extracts
        # before it has a journal.
        signs = ["run.log", "jobs.jsonl", *([".features"] if number % 2 else [])]
        own = [tmp_path / "two/output" / file for file in signs]
        begun = time.time()
        while process.poll() is None and not any(
            file.exists() and file.stat().st_mtime >= begun for file in own
        ):
            time.sleep(0.01)
        time.sleep(latest * generator.random() ** 2)
        process.send_signal(sent)
        ended = finish(process)
        # A process that a signal itself ends, as while Python shuts down, has the code minus n in
        # Python and 128 + n in a shell.
        assert ended.returncode in {0, 128 + sent, -sent}, ended.stderr
        # Within an object's __del__, Python itself prints the interrupt and goes on.
        assert "Traceback" not in ended.stderr or "Exception ignored in" in ended.stderr
        killed += ended.returncode != 0
    assert killed >= KILLS // 2, "most kills must have met the command at work"
    done = run("src.run", *command(tmp_path / "two", data, name))
    assert done.returncode == 0, done.stderr
    assert accuracies(tmp_path / "two") == accuracies(tmp_path / "one")
    assert not list((tmp_path / "two").rglob(".*.safetensors")), "no temporary file is left"
