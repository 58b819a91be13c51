import json
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from src.results.loggers import wandb_logger
from tests.cli import below, calipers, refused, result, run
from tests.offline_run import read_offline_run
from tests.wandb_server import wandb_server

KEY = "a" * 40
ZERO_SHOT = ("method=zero_shot", "logger=wandb")


def test_each_run_of_a_process_keeps_the_list_of_installed_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for folder in (tmp_path / "first", tmp_path / "second"):
        wandb_logger(str(folder), project="project", group="group").experiment.finish()
        (run_folder,) = folder.glob("wandb/offline-run-*")
        packages = (run_folder / "files/requirements.txt").read_text().splitlines()
        assert f"torch=={version('torch')}" in packages
        (records,) = run_folder.glob("run-*.wandb")
        deadline = time.monotonic() + 20  # W&B's own process writes on after `finish` has returned
        while b"requirements.txt" not in records.read_bytes():
            assert time.monotonic() < deadline, "wandb sync would not upload it"
            time.sleep(0.01)


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_wandb_obeys_its_own_switch(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    logged = wandb_logger(str(tmp_path), project="project", group="group").experiment
    assert logged.disabled == (mode == "disabled")
    logged.finish()
    assert bool(list(tmp_path.glob("wandb/offline-run-*"))) == (mode == "offline")


def online(folder: Path, *arguments: str, **environment: str):
    """Run with a local W&B server; give what it received."""
    home = folder / "home"
    home.mkdir()
    with wandb_server() as server:
        if environment.pop("login", ""):
            host = server.url.partition("://")[2]
            (home / ".netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
            (home / ".netrc").chmod(0o600)
        around = {"WANDB_BASE_URL": server.url, "HOME": str(home)} | environment
        done = run("src.run", *arguments, *below(folder), **around)
    return done, server


def test_with_a_key_a_run_goes_to_the_server_that_wandb_names(tmp_path):
    done, server = online(
        tmp_path, *ZERO_SHOT, "+logger.wandb.entity=team", "tags=mine", WANDB_API_KEY=KEY,
        WANDB_PROJECT="plants", WANDB_RUN_GROUP="leaves", WANDB_TAGS="exported",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = server.runs[0]
    assert (made["entity"], made["project"], made["groupName"]) == ("team", "plants", "leaves")
    assert made["displayName"] == "digits-tiny-zero_shot-16-1"
    assert {"digits", "tiny", "zero_shot", "fixed", "mine", "exported"} <= set(made["tags"])
    summary = json.loads(server.uploaded["wandb-summary.json"])
    assert summary["accuracy"] == pytest.approx(result(tmp_path)["accuracy"])


def test_after_wandb_login_runs_are_online_on_a_server_of_ones_own(tmp_path):
    done, server = online(tmp_path, *ZERO_SHOT, "name=first", login="yes")
    assert done.returncode == 0, done.stderr
    assert server.runs[0]["displayName"] == "first"
    assert not list(tmp_path.glob("output/wandb/offline-run-*"))


def test_without_a_key_a_run_is_offline_and_says_why(tmp_path):
    done, server = online(tmp_path, *ZERO_SHOT)
    assert done.returncode == 0, done.stderr
    assert f"W&B is offline, because there is no key for {server.url}" in done.stdout
    assert not server.runs
    (log,) = tmp_path.glob("output/wandb/offline-run-*/run-*.wandb")
    assert read_offline_run(log).about.display_name == "digits-tiny-zero_shot-16-1"


def test_without_a_network_a_run_with_a_key_is_offline_and_says_why(tmp_path):
    closed = "http://127.0.0.1:9"
    done = run(
        "src.run", *ZERO_SHOT, *below(tmp_path), WANDB_BASE_URL=closed, WANDB_API_KEY=KEY
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "W&B is offline, because 127.0.0.1 cannot be reached" in done.stdout
    assert list(tmp_path.glob("output/wandb/offline-run-*"))


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_online_without_a_key_is_refused_before_anything_is_done(tmp_path, multirun):
    done = run(
        "src.run", *multirun, "method=zero_shot,calip" if multirun else "method=calip",
        *below(tmp_path), WANDB_MODE="online", HOME=str(tmp_path),
    )  # fmt: skip
    assert "there is no key for" in refused(done)
    assert not (tmp_path / "features").exists()


def test_the_run_of_a_sweep_is_where_the_runs_of_its_jobs_are(tmp_path):
    done = run(
        "src.run", "-m", "logger=wandb", "method=zero_shot", "+logger.wandb.entity=team",
        *below(tmp_path), WANDB_MODE="offline", WANDB_PROJECT="plants",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    logs = list(tmp_path.glob("output/**/offline-run-*/run-*.wandb"))
    about = [read_offline_run(log).about for log in logs]
    assert {one.job_type for one in about} == {"", "report"}
    assert {(one.entity, one.project) for one in about} == {("team", "plants")}
    assert {read_offline_run(log).summary["protocol"] for log in logs} == {"all_classes"}


def test_the_protocol_is_in_the_group_the_name_the_configuration_and_the_metrics(tmp_path):
    done = run(
        "src.run", *ZERO_SHOT, "protocol=base_to_new", *below(tmp_path), WANDB_MODE="offline"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("output/wandb/offline-run-*/run-*.wandb")
    logged = read_offline_run(log)
    assert logged.about.run_group == "digits-tiny-base_to_new"
    assert logged.about.display_name == "digits-tiny-zero_shot-16-1-base_to_new"
    assert logged.config["protocol"]["name"] == logged.summary["protocol"] == "base_to_new"
    found = result(tmp_path)["metrics"]
    for name in ("base_accuracy", "new_accuracy", "harmonic_mean"):
        assert logged.summary[name] == pytest.approx(found[name])


def test_tensorboard_shows_the_accuracy(tmp_path):
    done = calipers(tmp_path, "method=zero_shot", "logger=tensorboard")
    assert done.returncode == 0, done.stderr
    (events,) = tmp_path.glob("output/tensorboard/events.out.tfevents.*")
    assert b"accuracy" in events.read_bytes()
