"""What a run costs beyond its work: in a sweep of 100, and until its first batch.

All by the real command line, on warm features of `digits`, W&B offline, on one thread: several
would mostly wait for one another on tensors as small as these.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.side_by_side import Figure, take_turns
from src.job.sweep import JOURNAL

# The methods without a gradient, and the cheapest method with one: its run also fits and writes a
# checkpoint. Everything that they compute counts as ours.
METHODS = ("zero_shot", "calip", "linear_probe", "tip_adapter", "tip_adapter_f")
SWEEP = (f"method={','.join(METHODS)}", "shots=1,2,4,8,16", "seed=1,2,3,4")
RUNS = 100
ONE = ("method=zero_shot", "shots=1", "seed=1")
ROUNDS = 5
RUN = ("-m", "src.run")
# Only Hydra, on the same configuration, without our callback and our hash in folder names.
EMPTY_JOB = """
import hydra
from src.config import CONFIG_DIR
hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")(lambda cfg: 0)()
"""
HYDRA = ("hydra.sweep.subdir=${hydra.job.num}", "~hydra.callbacks.sweep")
# What the run imports before torch has to stay before it. The exit code says that it got there.
FIRST_BATCH = """
import os
from src import run
from src.job import job
without_hints = job.without_hints
def after_imports():
    from src.methods.base import Method
    Method.test_step = lambda *_: os._exit(3)
    return without_hints()
job.without_hints = after_imports
run.main()
"""
LIBRARIES = "import os, lightning, torchmetrics, wandb; os._exit(0)"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


class Sweep(NamedTuple):
    """Seconds until the last job had ended, and from there to the end of the sweep."""

    jobs: float
    end: float


def figures() -> Iterator[Figure]:
    """Measure the sweep, the start, and what ends before a run begins."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield from _sweep(root)
        yield from _start(root)
    for what, arguments, code in (
        ("--help", ["--help"], 0),
        ("a misspelt choice", ["dataset=eurosta"], 2),
    ):
        seconds = statistics.median(_seconds(*RUN, *arguments, code=code) for _ in range(ROUNDS))
        yield Figure(f"{what}: seconds", f"{seconds:.2f} s", "", seconds, 3, at_least=False)


def _sweep(root: Path) -> Iterator[Figure]:
    ours(root, SWEEP)  # This fills the store.
    one_of_ours, one_empty = ours(root, ONE), empty(root, ONE)
    of_ours, of_empty = ours(root, SWEEP), empty(root, SWEEP)
    own = (of_ours.jobs - one_of_ours.jobs) / (RUNS - 1)
    bare = (of_empty - one_empty) / (RUNS - 1)
    yield Figure(
        f"a sweep of {RUNS} runs: seconds a run beyond Hydra's own",
        f"{own:.2f} s", f"{bare:.2f} s", own - bare, 0.5, at_least=False,
    )  # fmt: skip
    yield Figure(
        "its end (table, report, W&B): seconds", f"{of_ours.end:.1f} s", "", of_ours.end, None
    )


def ours(root: Path, overrides: tuple[str, ...]) -> Sweep:
    """Run a sweep of ours in a new folder."""
    output = tempfile.mkdtemp(dir=root)
    began = time.time()
    seconds = _seconds(*RUN, "-m", *_below(root), f"hydra.sweep.dir={output}", *overrides)
    jobs = Path(output, JOURNAL).stat().st_mtime - began
    return Sweep(jobs, seconds - jobs)


def empty(root: Path, overrides: tuple[str, ...]) -> float:
    """Run the same sweep of an empty job in a new folder; return the seconds."""
    output = f"hydra.sweep.dir={tempfile.mkdtemp(dir=root)}"
    return _seconds("-c", EMPTY_JOB, "-m", *_below(root), output, *HYDRA, *overrides)


def until_first_batch(root: Path) -> float:
    """Start a run in a new folder and end it at its first batch; return the seconds."""
    output = f"hydra.run.dir={tempfile.mkdtemp(dir=root)}"
    return _seconds("-c", FIRST_BATCH, *_below(root), output, code=3)


def _start(root: Path) -> Iterator[Figure]:
    turns = take_turns(
        rounds=ROUNDS,
        libraries=lambda: _seconds("-c", LIBRARIES),
        ours=lambda: until_first_batch(root),
    )
    beyond = statistics.median(
        ours - libraries
        for ours, libraries in zip(turns.seconds["ours"], turns.seconds["libraries"], strict=True)
    )
    yield Figure(
        "start to the first batch: seconds beyond importing Lightning, torchmetrics and W&B",
        f"{turns.median('ours'):.1f} s", f"{turns.median('libraries'):.1f} s", beyond, 2,
        at_least=False,
    )  # fmt: skip


def _below(root: Path) -> tuple[str, ...]:
    return "dataset=digits", f"paths.features={root}/features"


def _seconds(*arguments: str, code: int = 0) -> float:
    """Time a Python process, which has to end with the exit code `code`."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode != code:
        raise RuntimeError(f"exit code {done.returncode} of {arguments}:\n{done.stderr}")
    return seconds
