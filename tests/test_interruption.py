"""Tests of killed, shared or damaged extraction, through the real command line."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import replica
from tests.cli import ENVIRONMENT, ROOT, Forked, below, calipers, finish, result
from tests.data.webdataset.making import shards as shards_of_images
from tests.replica.photographs import photograph

ARGUMENTS = (
    "method=zero_shot", "dataset=dtd", "logger=none", "backbone.batch_size=2", *replica.TINY
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make 96 test images, large enough that the extraction can be interrupted half-way."""
    folder = tmp_path_factory.mktemp("data")
    replica.dtd(folder, per_class=32, size=700)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = calipers(folder, *ARGUMENTS, f"paths.data={data}")
    assert done.returncode == 0, done.stderr
    return folder


def shards(folder):
    return sorted(folder.glob("features/dtd/test-*/shard-*"))


def same_features(folder, other):
    assert [path.name for path in shards(folder)] == [path.name for path in shards(other)]
    assert shards(folder)
    for path, twin in zip(shards(folder), shards(other), strict=True):
        assert path.read_bytes() == twin.read_bytes()
    assert result(folder)["accuracy"] == result(other)["accuracy"]


def test_a_killed_extraction_continues_to_the_same_features(data, undisturbed, tmp_path):
    process = Forked("src.run", *below(tmp_path), *ARGUMENTS, f"paths.data={data}")
    while len(shards(tmp_path)) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    finish(process)
    kept = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    assert 3 <= len(kept) < len(shards(undisturbed))
    assert not list(tmp_path.glob("output/result.json"))
    done = calipers(tmp_path, *ARGUMENTS, f"paths.data={data}")
    assert done.returncode == 0, done.stderr
    same_features(tmp_path, undisturbed)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


@pytest.mark.slow
def test_two_processes_on_an_empty_store_extract_once(data, undisturbed, tmp_path):
    processes = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "features").symlink_to(tmp_path / "features")
        (tmp_path / "features").mkdir(exist_ok=True)
        processes.append(Forked("src.run", *below(folder), *ARGUMENTS, f"paths.data={data}"))
    ended = [finish(process) for process in processes]
    assert [done.returncode for done in ended] == [0, 0], [done.stderr for done in ended]
    assert sum("extracting dtd/test" in done.stdout for done in ended) == 1
    same_features(tmp_path / "one", undisturbed)
    same_features(tmp_path / "two", undisturbed)


def ranks(count):
    return "trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={count}"


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_share_an_extraction_out_to_the_same_features(data, undisturbed, tmp_path, count):
    done = calipers(tmp_path, *ARGUMENTS, *ranks(count), f"paths.data={data}")
    assert done.returncode == 0, done.stderr
    same_features(tmp_path, undisturbed)
    assert len(shards(tmp_path)) == len(list(tmp_path.glob("features/dtd/test-*/*.safetensors*")))
    assert done.stdout.count("results in") == done.stdout.count("extracting dtd/test") == 1
    assert (tmp_path / "output/run.log").read_text().count("results in") == 0


@pytest.mark.slow
def test_fewer_batches_than_processes_leave_none_without_work(tmp_path):
    folder = tmp_path / "images"
    for number in range(5):
        path = folder / f"test/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(path, "ab"[number % 2], number, 48)
    named = ("dataset=folder", f"dataset.path={folder}", "method=zero_shot", "logger=none")
    own = (*named, *replica.TINY, "backbone.batch_size=2")
    outcomes = []
    for name, more in {"alone": (), "shared": ranks(4)}.items():
        done = calipers(tmp_path / name, *own, *more)
        assert done.returncode == 0, done.stderr
        (entry,) = (tmp_path / name).glob("features/folder/test-*/shard-00000.safetensors")
        outcomes.append((entry.read_bytes(), result(tmp_path / name)["accuracy"]))
    assert outcomes[0] == outcomes[1]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Name a run on each kind of dataset, in uneven batches: arrays, drawn letters, and shards."""
    folder = tmp_path_factory.mktemp("shards")
    shards_of_images(folder / "test", 7, 8)
    return {
        "digits": (
            "dataset=digits", "method=tip_adapter", "shots=2", "selection=fixed",
            "backbone.batch_size=50",
        ),
        "letters": ("dataset=letters", "method=zero_shot", "backbone.batch_size=100"),
        "webdataset": (
            "dataset=webdataset", f"dataset.path={folder}", "backbone=tiny", "method=zero_shot",
            "backbone.batch_size=5",
        ),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["digits", "letters", "webdataset"])
def test_each_kind_of_dataset_is_shared_out_alike(kinds, tmp_path, kind):
    own = (*kinds[kind], "logger=none")
    found = []
    for count in (1, 2, 3):
        folder = tmp_path / str(count)
        done = calipers(folder, *own, *ranks(count))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("results in") == 1
        entries = sorted(folder.glob("features/*/*/shard-*"))
        content = {path.relative_to(folder): path.read_bytes() for path in entries}
        found.append((content, result(folder)["metrics"]))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) >= 2


def children(process):
    """List the processes that share the extraction out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all_and_the_next_start_goes_on(data, undisturbed, tmp_path):
    process = Forked("src.run", *below(tmp_path), *ARGUMENTS, *ranks(2), f"paths.data={data}")
    while len(shards(tmp_path)) < 3:
        assert process.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.005)
    _, second = sorted(children(process))
    os.kill(second, signal.SIGKILL)
    ended = finish(process)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1 and "of the 2 that extract features" in ended.stderr
    assert "(SIGKILL)" in ended.stderr and not list(tmp_path.glob("output/result.json"))
    kept = {path: path.stat().st_mtime_ns for path in shards(tmp_path) if ".from-" not in path.name}
    assert 3 <= len(kept) < len(shards(undisturbed))
    done = calipers(tmp_path, *ARGUMENTS, *ranks(2), f"paths.data={data}")
    assert done.returncode == 0, done.stderr
    same_features(tmp_path, undisturbed)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_a_mistake_in_one_process_is_said_once(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    last = sorted(copy.glob("dtd/images/*/*.jpg"))[-1]
    last.write_text("no photograph")
    done = calipers(tmp_path, *ARGUMENTS, *ranks(2), f"paths.data={copy}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot decode the image {last}: not an image.")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("damage", ["truncated", "altered", "deleted"])
def test_a_damaged_shard_is_noticed_and_made_again(data, undisturbed, tmp_path, damage):
    done = calipers(tmp_path, *ARGUMENTS, f"paths.data={data}")
    assert done.returncode == 0, done.stderr
    victim = shards(tmp_path)[2]
    content = victim.read_bytes()
    match damage:
        case "truncated":
            victim.write_bytes(content[:-100])
        case "altered":
            victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "deleted":
            victim.unlink()
    done = calipers(tmp_path, *ARGUMENTS, f"paths.data={data}")
    assert done.returncode == 0, done.stderr
    assert victim.name in done.stdout
    assert "made again" in done.stdout
    same_features(tmp_path, undisturbed)


def test_stored_rows_keep_the_order_of_the_split(undisturbed):
    label = [row for path in shards(undisturbed) for row in load_file(path)["label"].tolist()]
    assert label == sorted(label)
    assert [label.count(value) for value in range(3)] == [32, 32, 32]


ENDED = {signal.SIGTERM: (143, "terminated"), signal.SIGINT: (130, "interrupted")}
"""The shell's exit code for each signal, and what is said."""


def end(process, sent):
    """Send a signal, and check how the process ends."""
    process.send_signal(sent)
    done = finish(process)
    code, words = ENDED[sent]
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == words
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("sent", ENDED, ids=lambda sent: sent.name)
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1,2")], ids=["run", "sweep"])
def test_a_signal_during_extraction_keeps_what_is_whole(data, undisturbed, tmp_path, sent, sweep):
    arguments = (*sweep[:1], *below(tmp_path), *ARGUMENTS, *sweep[1:], f"paths.data={data}")
    process = Forked("src.run", *arguments)
    while len(shards(tmp_path)) < 3:
        assert process.poll() is None, "the run ended before it was sent a signal"
        time.sleep(0.005)
    end(process, sent)
    assert 3 <= len(shards(tmp_path)) < len(shards(undisturbed))
    assert not list(tmp_path.rglob("result.json"))
    again = calipers(tmp_path, *ARGUMENTS, f"paths.data={data}")
    assert again.returncode == 0, again.stderr
    same_features(tmp_path, undisturbed)


@pytest.mark.parametrize("sent", ENDED, ids=lambda sent: sent.name)
def test_a_signal_during_a_fit_ends_with_its_code_and_no_result(tmp_path, sent):
    process = Forked(
        "src.run", *below(tmp_path), "method=clip_adapter", "shots=1", "logger=csv",
        "method.training.epochs=100000", "method.support.crops=1",
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("output/csv/metrics.csv")):
        assert process.poll() is None, "the run ended before it was sent a signal"
        assert time.monotonic() < deadline, "no epoch ended"
        time.sleep(0.05)
    end(process, sent)
    assert not list(tmp_path.rglob("result.json"))


def test_a_reader_that_closes_the_output_is_no_error():
    done = subprocess.run(
        [f"'{sys.executable}' -m src.run --help | head -n 1; exit ${{PIPESTATUS[0]}}"],
        shell=True, executable="/bin/bash", cwd=ROOT, env=ENVIRONMENT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode in (0, 141)
