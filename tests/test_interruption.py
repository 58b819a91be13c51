"""Tests of killed, shared or damaged extraction, through the real command line."""

import signal
import time

import pytest
from safetensors.torch import load_file

from tests import replica
from tests.cli import below, calipers, finish, result, start

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
    process = start("src.run", *below(tmp_path), *ARGUMENTS, f"paths.data={data}")
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


def test_two_processes_on_an_empty_store_extract_once(data, undisturbed, tmp_path):
    processes = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "features").symlink_to(tmp_path / "features")
        (tmp_path / "features").mkdir(exist_ok=True)
        processes.append(start("src.run", *below(folder), *ARGUMENTS, f"paths.data={data}"))
    ended = [finish(process) for process in processes]
    assert [done.returncode for done in ended] == [0, 0], [done.stderr for done in ended]
    assert sum("extracting dtd/test" in done.stdout for done in ended) == 1
    same_features(tmp_path / "one", undisturbed)
    same_features(tmp_path / "two", undisturbed)


def test_two_ranks_share_the_shards_of_one_extraction(data, undisturbed, tmp_path):
    ranks = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    done = calipers(tmp_path, *ARGUMENTS, *ranks, f"paths.data={data}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output/train_ddp_process_1.log").exists()
    same_features(tmp_path, undisturbed)


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
