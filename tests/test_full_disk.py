"""A disk that is full at one moment or another: one message that names it, and no traceback."""

import subprocess

import pytest

from tests.cli import below, refused, run

SIZE_KB = 64


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 64 kB, which only root may."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("multirun", [False, True], ids=["run", "sweep"])
@pytest.mark.parametrize("free_kb", [4, 12, 28, 40])
def test_outputs_on_a_full_disk_end_in_one_message(tmp_path, small_disk, free_kb, multirun):
    (small_disk / "taken").write_bytes(bytes(1024 * (SIZE_KB - free_kb)))
    done = run(
        "src.run", *(["-m"] if multirun else []), "method=tip_adapter_f", "shots=1", "logger=csv",
        *below(tmp_path), f"hydra.run.dir={small_disk}/o", f"hydra.sweep.dir={small_disk}/o",
    )  # fmt: skip
    refused(done)
    assert "space" in done.stderr
    assert str(small_disk) in done.stderr
    assert not list(small_disk.glob("**/result.json"))


def test_features_on_a_full_disk_end_in_one_message(tmp_path, small_disk):
    done = run(
        "src.run", "method=tip_adapter", *below(tmp_path), f"paths.features={small_disk}/features",
    )  # fmt: skip
    message = refused(done)
    assert "space" in message
    assert str(small_disk) in message
    assert "{" not in message
