import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.store import entry as entry_module
from src.store.entry import verify
from src.store.store import FeatureStore

ROOT = Path(__file__).resolve().parents[2]
KEY = {"dataset": "dtd", "split": "test", "backbone": "rn50", "fingerprint": "ab", "view": None}
ROWS, STEP = 7, 2  # four shards; the last has one row


def features(rows: range) -> dict[str, torch.Tensor]:
    index = torch.arange(rows.start, rows.stop)
    spatial = index[:, None, None] * 8 + torch.arange(8).reshape(2, 4)
    return {"spatial": spatial.half(), "label": index % 3}


def fill(
    store: FeatureStore,
    rows: int = ROWS,
    step: int = STEP,
    before: Callable[[int], object] = lambda shard: None,
) -> list[int]:
    """Complete the entry of KEY and return the shards that were written."""
    with store.writing(KEY, rows, step) as writer:
        for shard in writer.pending:
            before(shard)
            writer.write(shard, features(writer.rows_of(shard)))
        writer.finish()
    return writer.pending


def files(store: FeatureStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.root.glob("*/*/*")}


def shards(store: FeatureStore) -> list[Path]:
    return sorted(store.root.glob("*/*/shard-*"))


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    code = f"import os, sys\nfrom tests.store.test_store import *\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def test_an_entry_exists_only_once_it_is_finished(store):
    assert store.open(KEY) is None
    with store.writing(KEY, ROWS, STEP) as writer:
        assert writer.pending == [0, 1, 2, 3]
        for shard in writer.pending:
            writer.write(shard, features(writer.rows_of(shard)))
            assert store.open(KEY) is None
        writer.finish()
    assert len(store.open(KEY)) == ROWS


def test_the_manifest_says_what_the_entry_is_and_how_it_was_made(store):
    with store.writing(KEY, ROWS, ROWS, made_by={"open_clip": "3.3.0"}) as writer:
        writer.write(0, features(range(ROWS)))
        writer.finish()
    entry = store.open(KEY)
    assert entry.path.parent == store.root / "dtd"
    assert entry.path.name.startswith("test-rn50-")
    assert entry.manifest["key"] == KEY
    assert entry.manifest["tensors"] == {
        "label": {"shape": [], "dtype": "int64"},
        "spatial": {"shape": [2, 4], "dtype": "float16"},
    }
    assert entry.manifest["made_by"] == {"torch": torch.__version__, "open_clip": "3.3.0"}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_rows_and_dtypes_survive_whatever_the_shards(tmp_path_factory, data):
    rows, step = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 14))
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    store = FeatureStore(tmp_path_factory.mktemp("features"))
    fill(store, rows, step)
    entry, whole = store.open(KEY), features(range(rows))
    assert len(entry) == rows
    for name, tensor in whole.items():
        assert entry.tensor(name).dtype == tensor.dtype
        assert torch.equal(entry.tensor(name), tensor)
        assert torch.equal(entry.rows(start, stop)[name], tensor[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 3), (5, 8)])
def test_rows_outside_the_entry_are_an_error(store, start, stop):
    fill(store)
    with pytest.raises(IndexError):
        store.open(KEY).rows(start, stop)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_rows_of_one_shard_are_memory_mapped_and_private(store):
    fill(store)
    before = files(store)
    spatial = store.open(KEY).rows(2, 4)["spatial"]
    mapped = [
        line.split()[0].split("-")
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith("shard-00001.safetensors")
    ]
    assert any(int(a, 16) <= spatial.data_ptr() < int(b, 16) for a, b in mapped)
    spatial.zero_()
    assert files(store) == before


@pytest.mark.parametrize("field", KEY)
def test_every_field_of_the_key_counts(store, field):
    fill(store)
    assert store.open(KEY | {field: "other"}) is None


def test_the_order_of_the_key_does_not_count(store):
    fill(store)
    assert store.open(dict(reversed(KEY.items()))) is not None


@pytest.mark.parametrize("dataset", ["..", "a/../../b", "/etc", ""])
def test_no_name_leads_out_of_the_store(store, dataset):
    with store.writing(KEY | {"dataset": dataset}, 1, 1):
        pass
    assert [path.parent.parent for path in store.entries()] == [store.root]


@pytest.mark.parametrize(("rows", "step"), [(0, 1), (1, 0)])
def test_an_entry_has_rows(store, rows, step):
    with pytest.raises(ValueError, match="positive"), store.writing(KEY, rows, step):
        pass


def test_a_tensor_of_the_wrong_length_is_refused(store):
    with store.writing(KEY, ROWS, STEP) as writer, pytest.raises(ValueError, match="label has 1"):
        writer.write(0, {"label": torch.zeros(1)})
    assert not shards(store)


def test_finishing_without_every_shard_is_an_error(store):
    with store.writing(KEY, ROWS, STEP) as writer:
        writer.write(0, features(writer.rows_of(0)))
        with pytest.raises(RuntimeError, match=r"shard-00001\.safetensors was never written"):
            writer.finish()
    assert store.open(KEY) is None


def test_finishing_shards_of_different_tensors_is_an_error(store):
    with store.writing(KEY, 2, 1) as writer:
        writer.write(0, {"global": torch.zeros(1, 3)})
        writer.write(1, {"global": torch.zeros(1, 4)})
        with pytest.raises(ValueError, match="shard-00001"):
            writer.finish()


KILL_BETWEEN = """
fill(FeatureStore(Path(sys.argv[1])),
     before=lambda shard: shard == 2 and os.kill(os.getpid(), signal.SIGKILL))
"""
KILL_WITHIN = """
whole = Path.write_bytes
def half(path, content):
    if "shard-00002" in path.name:
        whole(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, content)
Path.write_bytes = half
fill(FeatureStore(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("kill", [KILL_BETWEEN, KILL_WITHIN], ids=["between shards", "within one"])
def test_a_killed_run_is_continued_to_the_same_bytes(store, tmp_path, kill):
    assert python(kill, store.root).wait() == -signal.SIGKILL
    hidden = [name for name in files(store) if name.startswith(".")]
    assert hidden or kill is KILL_BETWEEN
    done = [int(path.name[6:11]) for path in shards(store)]
    assert 2 not in done  # Shard 3, written beside it, may be whole.
    assert store.open(KEY) is None

    assert fill(store) == [shard for shard in range(4) if shard not in done]
    undisturbed = FeatureStore(tmp_path / "undisturbed")
    fill(undisturbed)
    found, expected = files(store), files(undisturbed)
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in found if name != "manifest.json")


def test_a_run_killed_before_the_manifest_needs_no_extraction(store):
    with store.writing(KEY, ROWS, STEP) as writer:
        for shard in writer.pending:
            writer.write(shard, features(writer.rows_of(shard)))
    assert store.open(KEY) is None
    with store.writing(KEY, ROWS, STEP) as writer:
        assert writer.pending == []
    assert store.open(KEY) is not None


def test_shards_of_another_size_are_not_continued(store):
    with store.writing(KEY, ROWS, 3) as writer:
        for shard in writer.pending:
            writer.write(shard, features(writer.rows_of(shard)))
    assert fill(store, step=4) == [0, 1]
    assert torch.equal(store.open(KEY).tensor("label"), features(range(ROWS))["label"])
    assert len(shards(store)) == 2


def test_of_two_processes_one_extracts_and_the_other_waits(store):
    first = python(
        "fill(FeatureStore(Path(sys.argv[1])), before=lambda s: (print(s, flush=True), input()))",
        store.root,
    )
    assert first.stdout.readline() == "0\n"  # it holds the lock
    second = python(
        "import logging\n"
        "logging.basicConfig(level='INFO', stream=sys.stdout, format='%(message)s')\n"
        "print(fill(FeatureStore(Path(sys.argv[1]))))",
        store.root,
    )
    assert "another process is extracting" in second.stdout.readline()
    assert first.communicate("\n" * 4)[0] == "1\n2\n3\n"
    assert second.communicate()[0] == "[]\n"
    assert (first.returncode, second.returncode) == (0, 0)
    assert torch.equal(store.open(KEY).tensor("label"), features(range(ROWS))["label"])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    modified = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[:-1])
    os.utime(path, ns=(modified, modified))  # only the size shows it


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_only_a_damaged_shard_is_made_again(store, caplog, damage):
    fill(store)
    before = files(store)
    damage(shards(store)[1])
    assert store.open(KEY) is None
    assert "shard-00001.safetensors" in caplog.text
    assert "made again" in caplog.text
    assert fill(store) == [1]
    assert store.open(KEY) is not None
    assert files(store)["shard-00001.safetensors"] == before["shard-00001.safetensors"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0}', "\xff"])
def test_an_unreadable_manifest_is_made_again_from_the_shards(store, caplog, content):
    fill(store)
    next(store.root.glob("*/*/manifest.json")).write_text(content, encoding="latin-1")
    assert store.open(KEY) is None
    assert "manifest.json" in caplog.text
    assert fill(store) == []
    assert store.open(KEY) is not None


def test_no_flipped_byte_changes_what_is_read(store):
    fill(store)
    expected = store.open(KEY).tensor("spatial")
    path = shards(store)[0]
    intact = path.read_bytes()
    noticed = 0
    for place in range(len(intact)):
        altered = bytearray(intact)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        os.utime(path, ns=(0, place))
        if (entry := store.open(KEY)) is None:
            noticed += 1
        else:
            assert torch.equal(entry.tensor("spatial"), expected)
    assert noticed > len(intact) / 2


def test_a_copied_store_is_checked_once_and_stays_valid(store, tmp_path, caplog, monkeypatch):
    fill(store)
    copy = FeatureStore(shutil.copytree(store.root, tmp_path / "copy"))
    for path in shards(copy):
        os.utime(path, ns=(0, 1))
    assert copy.open(KEY) is not None
    assert not caplog.records
    monkeypatch.setattr(entry_module, "check_shard", lambda *_: pytest.fail("checked twice"))
    monkeypatch.setattr(entry_module, "ALWAYS_CHECKED", 0)
    monkeypatch.setattr(entry_module, "CHECKED_BYTES", 0)
    assert copy.open(KEY) is not None


def test_a_copy_that_cannot_be_written_is_read(store, monkeypatch):
    fill(store)
    os.utime(shards(store)[0], ns=(0, 1))

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(entry_module, "write_json", refuse)
    assert store.open(KEY) is not None


def test_a_full_disk_is_an_os_error_and_leaves_nothing_behind(store):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with store.writing(KEY, 1, 1) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                writer.write(0, {"global": torch.zeros(1, 10_000)})
                writer.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(store) == {}


def flip_without_a_trace(path):
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_damage_without_a_trace_in_the_file_system_is_seen_at_once_in_a_small_entry(store):
    fill(store)
    flip_without_a_trace(path := shards(store)[2])
    assert store.open(KEY) is None
    [damage] = verify(path.parent)
    assert str(path) in damage


def test_damage_without_a_trace_in_a_large_entry_is_seen_at_one_of_its_openings(store, monkeypatch):
    fill(store)
    flip_without_a_trace(shards(store)[2])
    monkeypatch.setattr(entry_module, "ALWAYS_CHECKED", 0)
    opened = [store.open(KEY) for _ in range(60)]
    assert None in opened, "one of four shards is checked at each opening"
    assert any(opened), "and not all of them"
    monkeypatch.setattr(entry_module, "CHECKED_BYTES", 0)
    assert all(store.open(KEY) for _ in range(20))


EDITED = {
    "no rows": lambda m: m.pop("rows"),
    "rows as text": lambda m: m.update(rows="7"),
    "fewer rows": lambda m: m.update(rows=6),
    "more rows per shard": lambda m: m.update(rows_per_shard=4),
    "no shards": lambda m: m.pop("shards"),
    "one shard less": lambda m: m["shards"].pop(),
    "a shard without a file": lambda m: m["shards"][0].pop("file"),
    "a shard elsewhere": lambda m: m["shards"][0].update(file="../../other"),
    "a shard that is text": lambda m: m["shards"].__setitem__(1, "shard"),
    "no tensors": lambda m: m.pop("tensors"),
    "another tensor": lambda m: m["tensors"].update(more={"shape": [1], "dtype": "float16"}),
    "another shape": lambda m: m["tensors"]["label"].update(shape=[2]),
    "a key that is a list": lambda m: m.update(key=[]),
    "no made_by": lambda m: m.pop("made_by"),
}


@pytest.mark.parametrize("checksum", [True, False], ids=["with", "without"])
@pytest.mark.parametrize("edit", EDITED.values(), ids=EDITED)
def test_an_edited_manifest_is_damage_and_the_entry_is_made_again(store, caplog, edit, checksum):
    """Manifests of earlier versions have no checksum of their own."""
    fill(store)
    path = shards(store)[0].parent / "manifest.json"
    manifest = json.loads(path.read_text())
    if not checksum:
        del manifest["sha256"]
    edit(manifest)
    path.write_text(json.dumps(manifest))
    assert store.open(KEY) is None
    assert "it will be made again" in caplog.text
    fill(store)
    assert torch.equal(store.open(KEY).tensor("label"), features(range(ROWS))["label"])


def test_a_manifest_of_an_earlier_version_is_checked_whole_once(store):
    fill(store)
    path = shards(store)[0].parent / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    assert store.open(KEY) is not None
    assert "sha256" in json.loads(path.read_text())


def test_an_entry_that_is_being_written_can_be_waited_for(store):
    assert store.open_written(KEY) is None
    assert not store.root.exists(), "nothing is made by asking"
    begun = threading.Event()

    def write() -> None:
        with store.writing(KEY, ROWS, STEP) as writer:
            begun.set()
            time.sleep(0.3)
            for shard in writer.pending:
                writer.write(shard, features(writer.rows_of(shard)))
            writer.finish()

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait()
    assert store.open(KEY) is None
    assert torch.equal(store.open_written(KEY).tensor("label"), features(range(ROWS))["label"])
    writer.join()


WRONG_KINDS = {
    "a folder": lambda path: path.mkdir(),
    "a link loop": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
    "empty": lambda path: path.touch(),
    "cut off": lambda path: path.write_bytes(b'{"format": 1, "rows"'),
    "deep": lambda path: path.write_text("[" * 100_000),
}


@pytest.mark.parametrize("name", ["manifest.json", "shard-00001.safetensors"])
@pytest.mark.parametrize("put", WRONG_KINDS.values(), ids=WRONG_KINDS)
def test_something_else_in_the_place_of_a_file_is_made_again_and_never_hangs(store, put, name):
    fill(store)
    path = shards(store)[0].parent / name
    path.unlink()
    put(path)
    assert store.open(KEY) is None
    fill(store)
    assert torch.equal(store.open(KEY).tensor("label"), features(range(ROWS))["label"])


def test_verify_knows_a_shard_that_took_the_place_of_another(store):
    fill(store)
    first, second, *_ = shards(store)
    shutil.copy(second, first)
    assert len(verify(first.parent)) == 1
