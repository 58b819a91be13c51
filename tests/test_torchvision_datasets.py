"""Command lines on replicas of the sets that torchvision downloads."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests import replica_torchvision as replica
from tests.cli import calipers, refused, run
from tests.replica import TINY

NAMES = tuple(replica.MAKERS)
METHODS = ("zero_shot", "calip", "tip_adapter")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        replica.make(name, folder)
    return folder


def test_check_finds_every_set_in_order(data):
    done = run(
        "src.prepare", "--check", f"dataset={','.join(NAMES)}", f"paths.data={data}",
        *replica.SETTINGS,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert all(f"{name}: nothing is wrong." in done.stderr for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("names", [NAMES], ids=len)
def test_sets_run_with_every_kind_of_method(names, data, tmp_path):
    (tmp_path / "data").symlink_to(data)
    done = calipers(
        tmp_path, "-m", f"dataset={','.join(names)}", f"method={','.join(METHODS)}",
        f"++{replica.SETTINGS[0]}", *TINY, "shots=2", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("output/*/result.json")]
    assert len(results) == len(names) * len(METHODS)
    for found in results:
        assert (found["n_test"], found["n_classes"]) == (12, 3)
        # Chance is 33 %; more shows that labels, names and images match.
        assert found["accuracy"] >= 75, found


@pytest.fixture
def server(tmp_path):
    """Serve what lies in `tmp_path / "www"`."""
    (tmp_path / "www").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_set_is_fetched_checked_and_unpacked(data, server, tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        folder = data / "cifar10/cifar-10-batches-bin"
        tar.add(folder, arcname=folder.name)
    (tmp_path / "www/cifar.tar.gz").write_bytes(archive.getvalue())
    settings = [
        "dataset=cifar10", f"paths.data={tmp_path}/data", replica.SETTINGS[0],
        f"dataset.downloads.0.url={server}/cifar.tar.gz",
    ]  # fmt: skip
    done = run("src.prepare", *settings, no_proxy="127.0.0.1")
    assert refused(done).startswith("error: cifar10: these downloads failed:")
    assert "is not the expected file: its checksum is md5:" in done.stderr
    assert not (tmp_path / "data/cifar10/cifar-10-batches-bin").exists()
    digest = hashlib.md5(archive.getvalue()).hexdigest()
    settings.append(f"dataset.downloads.0.checksum=md5:{digest}")
    done = run("src.prepare", *settings, no_proxy="127.0.0.1")
    assert done.returncode == 0, done.stderr
    table = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    assert all([split, str(count), "3"] in table for split, count in replica.SPLITS.items())
    found = tmp_path / "data/cifar10/cifar-10-batches-bin/test_batch.bin"
    assert found.read_bytes() == (folder / "test_batch.bin").read_bytes()


def test_a_set_that_only_the_user_can_bring_is_said(tmp_path):
    message = refused(run("src.prepare", "dataset=fer2013", f"paths.data={tmp_path}"))
    assert "these must be put there by hand" in message


def test_preparing_needs_no_torch(data):
    """In a process of its own, because `run` forks one that has torch already."""
    script = (
        "import runpy, sys; runpy.run_module('src.prepare', run_name='__main__');"
        "sys.exit('torch' in sys.modules)"
    )
    names = f"dataset={','.join(NAMES)}"
    arguments = [names, f"paths.data={data}", *replica.SETTINGS]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_damaged_row_is_one_line_of_the_check(data, tmp_path):
    folder = replica.make("fer2013", tmp_path / "copy")
    lines = (folder / "fer2013.csv").read_text().splitlines()
    label, pixels, usage = lines[4].split(",")
    lines[4] = f"{label},{pixels.rpartition(' ')[0]},{usage}"
    (folder / "fer2013.csv").write_text("\n".join(lines))
    done = run(
        "src.prepare", "--check", "dataset=fer2013", f"paths.data={tmp_path}/copy",
        *replica.SETTINGS,
    )  # fmt: skip
    assert done.stdout == f"{folder}/fer2013.csv:5\tit has 2,303 pixels, not 2,304\n"
    assert "0 missing and 1 damaged of 42 images" in refused(done)


def test_a_missing_set_says_how_to_fetch_it(tmp_path):
    done = calipers(tmp_path, "dataset=stl10", "method=zero_shot", "backbone=tiny", "logger=none")
    message = refused(done)
    assert "stl10_binary/train_X.bin is missing" in message
    assert "python -m src.prepare dataset=" in message
