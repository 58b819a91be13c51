"""What launchers need to be told before the jobs of a sweep: which GPU, how many, how quiet."""

import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
import warnings
from functools import cache
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, read_write

from src.errors import UserError

JOBLIB, RAY = "JoblibLauncher", "RayLauncher"
QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",  # the lines of jobs resemble one another
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # jobs that ask for no GPU see none
}
"""Ray reads these when it is imported; what the user's environment says counts more."""

# The plugin's own configuration has the name of ours, which is checked against it.
warnings.filterwarnings(
    "ignore", r"\s*'hydra/launcher/ray' is validated against ConfigStore schema"
)

# joblib replaces a process whose memory has grown; its job is not lost.
warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor")


def gpus() -> list[str]:
    """List this machine's NVIDIA GPUs as `CUDA_VISIBLE_DEVICES` names them; no torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [one.strip() for one in given.split(",") if one.strip() not in ("", "-1")]
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    asked = [command, "--query-gpu=uuid", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.stdout.split() if answer.returncode == 0 else []


def prepare(config: DictConfig) -> None:
    """Fill in what the launcher of a sweep leaves to the machine, before it is built.

    joblib starts as many jobs as there are GPUs, unless `hydra.launcher.n_jobs` is given; a job of
    Ray takes one, unless `hydra.launcher.ray.remote.num_gpus` is given.

    Raises:
        UserError: the launcher is not installed.
    """
    STARTED.append(os.getpid())
    launcher = config.hydra.launcher
    kind = _kind(config)
    with read_write(launcher):
        if kind == JOBLIB and launcher.n_jobs == -1 and _one_each(config) and (found := gpus()):
            launcher.n_jobs = len(found)
        if kind == RAY:
            if importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None:
                raise UserError("hydra/launcher=ray needs Ray: `pip install 'calipers[ray]'`.")
            for name, value in QUIET_RAY.items():
                os.environ.setdefault(name, value)
            if launcher.ray.remote.num_gpus is None:
                launcher.ray.remote.num_gpus = int(_one_each(config) and bool(gpus()))


def be_worker(config: DictConfig) -> None:
    """Do what a process of a launcher has to do before its first job, and before CUDA starts.

    It ends when the process that started it is gone. One of joblib takes a GPU; where there are
    more processes than GPUs, they are spread evenly. Other launchers share GPUs out themselves.
    Where the jobs run in the process that started the sweep, nothing is done.
    """
    if os.getpid() in STARTED:
        return
    _end_with_parent()
    hydra = HydraConfig.get()
    if hydra.launcher._target_.endswith(JOBLIB) and _one_each(config):
        _take_gpu(Path(hydra.sweep.dir))


@cache
def _end_with_parent() -> None:
    """End this process when the one that started it is gone; launchers do not see to that."""
    starter = multiprocessing.parent_process()  # None where another program started this one
    parent = os.getppid() if starter is None else starter.pid

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@cache
def _take_gpu(sweep: Path) -> None:
    if len(found := gpus()) < 2:
        return
    for place in count():
        held = FileLock(sweep / f".worker-{place}.lock")
        try:
            held.acquire(timeout=0)
        except Timeout:
            continue
        HELD.append(held)
        os.environ["CUDA_VISIBLE_DEVICES"] = found[place % len(found)]
        return


STARTED: list[int] = []
"""The number of this process, if it has started a sweep."""
HELD: list[FileLock] = []
"""The place of this process among the sweep's; it is free again when the process ends."""


def _kind(config: DictConfig) -> str:
    return str(config.hydra.launcher._target_).rpartition(".")[2]


def _one_each(config: DictConfig) -> bool:
    """Say whether a job computes on one GPU, where there are some."""
    trainer = config.trainer
    on_gpu = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    return on_gpu and trainer.get("devices", 1) == 1
