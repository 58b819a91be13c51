import time
from importlib.metadata import version

import pytest

from src.results.loggers import wandb_logger


def test_each_run_of_a_process_keeps_the_list_of_installed_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for folder in (tmp_path / "first", tmp_path / "second"):
        wandb_logger(str(folder), project="project", group="group").experiment.finish()
        (run,) = folder.glob("wandb/offline-run-*")
        packages = (run / "files/requirements.txt").read_text().splitlines()
        assert f"torch=={version('torch')}" in packages
        (records,) = run.glob("run-*.wandb")
        deadline = time.monotonic() + 20  # W&B's own process writes on after `finish` has returned
        while b"requirements.txt" not in records.read_bytes():
            assert time.monotonic() < deadline, "wandb sync would not upload it"
            time.sleep(0.01)


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_wandb_obeys_its_own_switch(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    run = wandb_logger(str(tmp_path), project="project", group="group").experiment
    assert run.disabled == (mode == "disabled")
    run.finish()
    assert bool(list(tmp_path.glob("wandb/offline-run-*"))) == (mode == "offline")
