"""`dry_run=true`: what it says, against what the same command then does."""

import logging
import shutil
import sys
from collections import namedtuple

import pytest
from hydra.core.global_hydra import GlobalHydra

from src.config import compose, config_hash
from src.files import CONFIG_DIR, ROOT
from src.store.entry import MANIFEST, read_manifest
from src.store.shards import shard_name
from src.store.store import FeatureStore
from tests.cli import below, calipers, refusal, run
from tests.features.test_precomputed import folder as precomputed_folder  # noqa: F401

SMALL = (
    "shots=1", "++method.support.crops=2", "++method.support.min_scale=0.5",
    "++method.support.horizontal_flip=true", "++method.test_crops.crops=4", "logger=none",
)  # fmt: skip
TRAINED = ("++method.training.epochs=2", "++method.training.crops=3")
IMAGES = [path.stem for path in sorted((CONFIG_DIR / "method").glob("*.yaml"))]
IMAGES.remove("pointclip")
BY_METHOD = "hydra.sweep.subdir=${method.name}"


def dry_run(folder, *arguments):
    """Run `src.run` in this process, which saves the imports; return the exit code."""
    from src.command_line import run_command
    from src.run import main

    flags = [one for one in arguments if one == "-m"]
    others = [str(one) for one in arguments if one != "-m"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.job.estimate.SECONDS", 0.2)
        patch.setattr("src.job.probe.SECONDS", 0.2)
        patch.setattr(sys, "argv", ["run", *flags, *below(folder), *others, "dry_run=true"])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            run_command(main)
    logging.getLogger("src").setLevel(logging.NOTSET)  # further tests read what is logged
    return ended.value.code


def estimated(folder, *arguments):
    """Make an estimate, which is not printed."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.job.estimate._print", found.append)
        assert dry_run(folder, *arguments) == 0
    return found[0]


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def agrees(folder, *arguments):
    """Compare an estimate with what the same command leaves in the store; return the estimate."""
    before, there = files(folder), set(FeatureStore(folder / "features").entries())
    probe = estimated(folder, *arguments)
    assert files(folder) == before
    done = calipers(folder, *arguments)
    assert done.returncode == 0, done.stderr
    made = set(FeatureStore(folder / "features").entries()) - there
    planned = {need.entry.path: need for need in probe.needs if need.missing}
    assert set(planned) == made
    for path, need in planned.items():
        assert need.missing == read_manifest(path)["rows"], path
        size = sum(file.stat().st_size for file in path.iterdir())
        assert probe.bytes(need) == pytest.approx(size, rel=0.05, abs=300), path
        assert probe.seconds(need) > 0
    return probe


@pytest.mark.slow
def test_a_sweep_stores_what_was_estimated_and_then_nothing_more(tmp_path, capsys):
    sweep = ("-m", "method=zero_shot,calip,tip_adapter,mta", "dataset=digits", BY_METHOD)
    probe = agrees(tmp_path, *sweep, *SMALL)
    crops = next(need for need in probe.needs if need.key["split"] == "test_crops")
    assert crops.missing == 4 * 720

    again = estimated(tmp_path, *sweep, *SMALL, "force=true")
    assert {need.entry.path for need in again.needs} == {need.entry.path for need in probe.needs}
    assert not any(need.missing for need in again.needs)
    assert again.bytes_by_store() == {}

    # An extraction that was interrupted goes on where it stopped.
    (crops.entry.path / MANIFEST).unlink()
    assert estimated(tmp_path, *sweep, *SMALL, "force=true").bytes_by_store() == {}
    (crops.entry.path / shard_name(1)).unlink()
    again = estimated(tmp_path, *sweep, *SMALL, "force=true")
    assert {need.entry.path: need.missing for need in again.needs if need.missing} == {
        crops.entry.path: 1024
    }

    # Finished is what has the same settings: by its own, zero_shot has no support set.
    before = files(tmp_path)
    capsys.readouterr()
    few = ("-m", "method=zero_shot,tip_adapter", "dataset=digits", BY_METHOD, "shots=1")
    assert dry_run(tmp_path, *few, "++method.test_crops=null", "logger=none") == 0
    assert "2 jobs, of them 1 finished" in capsys.readouterr().out
    assert files(tmp_path) == before


def test_it_prints_a_table_and_writes_nothing(tmp_path):
    sweep = ("-m", "method=zero_shot", "dataset=digits,letters", "seed=1,2", "logger=none")
    done = calipers(tmp_path, *sweep, "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "4 jobs, of them 2 that repeat another" in done.stdout
    assert "to encode: 1,500 images and 36 prompts" in done.stdout
    assert "time to extract: about" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    message = refusal(tmp_path, "method=zero_shot", "dataset=digits", "dry_run=true")
    assert f"the disk of {tmp_path}/features has 1.0 MB free, and 64.1 MB are needed" in message
    assert list(tmp_path.iterdir()) == []


def test_jobs_that_would_fail_are_named(tmp_path, capsys):
    assert dry_run(tmp_path, "-m", "method=zero_shot,linear_probe", "dataset=solids") == 2
    told = capsys.readouterr().err
    assert "error: 1 of 2 jobs would fail: method=linear_probe is defined for images only" in told
    message = refusal(tmp_path, "dataset=digits", "shots=100000", "method=gda", "dry_run=true")
    assert "shots=100000 is more than the data holds" in message
    assert list(tmp_path.iterdir()) == []


def test_a_bug_ends_it_before_the_work_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("src.job.estimate.show", lambda *_, **__: 1 / 0)
    assert dry_run(tmp_path, "method=zero_shot", "dataset=digits") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_features_that_exist_are_not_extracted(precomputed_folder, tmp_path, capsys):  # noqa: F811
    before = files(tmp_path)
    given = ("dataset=precomputed", f"dataset.path={precomputed_folder}")
    assert dry_run(tmp_path, *given, "method=zero_shot") == 0
    assert capsys.readouterr().out == "1 job\nnothing is to be extracted\n"
    assert files(tmp_path) == before


def test_the_hash_of_a_run_is_the_same():
    assert config_hash(compose(["dry_run=true"])) == config_hash(compose([]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ("-m", f"method={','.join(IMAGES[part::4])}", "dataset=letters", *TRAINED)
            for part in range(4)
        ),
        ("-m", "method=coop,zero_shot,calip", "dataset=digits", "protocol=base_to_new", *TRAINED),
        ("-m", "method=zero_shot,calip,tip_adapter,mta,mean_similarity", "dataset=digits",
         "protocol=cross_dataset", "eval_dataset=[letters]"),
        ("-m", "method=tip_adapter,zlap", "dataset=digits", "protocol=shift",
         "eval_dataset=[digits]"),
        ("-m", "method=zero_shot,tip_adapter,gda", "dataset=solids", "selection=val"),
        ("method=gda", "dataset=digits", "dataset.templates=[\"a {}\"]", "calibrate=temperature"),
    ],
    ids=[
        *(f"methods {part}" for part in "abcd"), "base_to_new", "cross_dataset", "shift", "clouds",
        "other_prompts",
    ],
)  # fmt: skip
def test_other_commands_store_what_was_estimated(tmp_path, arguments):
    agrees(tmp_path, *arguments, *SMALL)


@pytest.mark.slow
def test_each_backbone_of_a_sweep_has_its_own_features(tmp_path):
    shutil.copytree(ROOT / "src/clip/tiny", tmp_path / "other")
    folders = f"local-dir:{ROOT}/src/clip/tiny,local-dir:{tmp_path}/other"
    sweep = ("-m", "method=calip", "dataset=digits", f"backbone.architecture={folders}")
    probe = agrees(tmp_path, *sweep, "backbone=tiny", *SMALL)
    assert len({need.key["backbone"] for need in probe.needs}) == 2


@pytest.mark.slow
def test_weights_that_are_not_here_are_not_needed(tmp_path):
    done = run(
        "src.run", *below(tmp_path), "method=zero_shot", "dataset=digits", "backbone=rn50",
        "dry_run=true", HF_HOME=str(tmp_path / "hub"), HOME=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the weights of rn50 are not here" in done.stdout
