import sys
from pathlib import Path

import pytest
import torch

from src.command_line import run_command
from src.features.__main__ import main
from src.store.store import FeatureStore


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Make two complete entries and one that was interrupted."""
    store = FeatureStore(tmp_path)
    for dataset, split, complete in [("dtd", "test", 1), ("dtd", "train", 0), ("pets", "val", 1)]:
        key = {"dataset": dataset, "split": split, "backbone": "vit_b16"}
        with store.writing(key, 1234, 1000) as writer:
            writer.write(0, {"global": torch.zeros(1000, 3)})
            if complete:
                writer.write(1, {"global": torch.zeros(234, 3)})
                writer.finish()
    return store


@pytest.fixture
def run(store, monkeypatch, capsys):
    """Run a command on the store; return its exit code, output and error output."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["features", *arguments, "--root", str(store.root)])
        monkeypatch.setenv("COLUMNS", "150")
        code = 0
        try:
            run_command(main)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_ls_shows_every_entry_and_the_total(run, store):
    code, out, _ = run("ls")
    assert code == 0
    lines = [line for line in out.splitlines() if "vit_b16" in line]
    assert ["dtd" in line for line in lines] == [True, True, False]
    assert ["1,234" in line and "global 3" in line for line in lines] == [True, False, True]
    assert ["incomplete" in line for line in lines] == [False, True, False]
    assert all("kB" in line for line in lines)
    assert "entries: 3" in out


def test_ls_of_an_unreadable_manifest_calls_the_entry_incomplete(run, store):
    next(store.root.glob("pets/*/manifest.json")).write_text("{")
    assert run("ls")[1].count("incomplete") == 2


def test_verify_passes_a_sound_store(run):
    code, out, _ = run("verify")
    assert code == 0
    assert "no damage" in out


@pytest.mark.parametrize("pattern", ["dtd/test*/shard-00000*", "pets/*/shard-00001*", "dtd/*/man*"])
def test_verify_lists_the_damaged_files_and_fails(run, store, pattern):
    [path] = store.root.glob(pattern)
    path.write_bytes(path.read_bytes()[:-2])
    code, _, error = run("verify")
    assert code == 2
    assert str(path) in error
    assert error.count(str(store.root)) == 1


def test_rm_removes_what_matches_and_nothing_else(run, store):
    code, out, _ = run("rm", "dtd/*")
    assert code == 0
    assert out.count("removed dtd/") == 2
    assert "came free" in out
    assert [path.name for path in store.root.iterdir()] == ["pets"]
    assert len(store.entries()) == 1


def test_rm_of_nothing_is_the_users_mistake(run, store):
    code, _, error = run("rm", "eurosat/*")
    assert code == 2
    assert "eurosat/*" in error
    assert len(store.entries()) == 3


def test_rm_leaves_an_entry_that_is_being_written(run, store):
    with store.writing({"dataset": "dtd", "split": "train", "backbone": "vit_b16"}, 1234, 1000):
        code, _, error = run("rm", "dtd/train*")
    assert code == 2
    assert "being written" in error
    assert len(store.entries()) == 3
