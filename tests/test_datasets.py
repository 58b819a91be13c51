"""Every dataset of the benchmark, from its YAML to the accuracy, on replicas of the folders."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from hydra.utils import get_method

from src.config import CONFIG_DIR, compose
from src.data.download import Download
from src.errors import UserError
from src.prepare import main
from tests import replica
from tests.cli import calipers, run

METHODS = ("zero_shot", "calip", "tip_adapter")
DIGITS = {"md5": 32, "sha256": 64}


def composed(name):
    return compose([f"dataset={name}"]).dataset


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIG_DIR / "dataset").glob("*.yaml")))
def test_every_dataset_is_described_completely(name):
    dataset = composed(name)
    assert dataset.name == name
    assert callable(get_method(dataset.reader["_target_"]))
    downloads = [Download(**entry) for entry in dataset.get("downloads") or []]
    for download in downloads:
        algorithm, digest = download.checksum.split(":")
        assert re.fullmatch(f"[0-9a-f]{{{DIGITS[algorithm]}}}", digest)
    for entries in (downloads, dataset.get("by_hand") or []):
        targets = [Path(entry.to) for entry in entries]
        assert len(set(targets)) == len(targets)
        # An archive that fills the root is fetched into an empty one only: see `fetch`.
        assert Path() not in targets or (entries is downloads and len(targets) == 1)
    if name in replica.DATASETS:
        assert all(template.count("{}") == 1 for template in dataset.templates)
        assert downloads


def trusted(name, root):
    """Overrides that expect the replica's split file instead of the published one."""
    return [
        f"dataset.downloads.{index}.checksum=sha256:{digest(root / entry.to)}"
        for index, entry in enumerate(composed(name).downloads)
        if "member" not in entry
    ]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", replica.DATASETS)
def test_prepare_accepts_a_whole_folder_and_names_a_missing_image(
    name, tmp_path, monkeypatch, capsys
):
    root = replica.make(name, tmp_path, per_class=2)
    argv = ["prepare", f"dataset={name}", f"paths.data={tmp_path}", *trusted(name, root)]
    monkeypatch.setattr("sys.argv", argv)
    main()
    table = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert all([split, "6", "3"] in table for split in replica.SPLITS)
    image = sorted(root.rglob("*.jpg"))[0]
    image.unlink()
    with pytest.raises(UserError, match=rf"1 of 18 images are missing[\s\S]*{image.name}"):
        main()


def test_prepare_says_what_to_put_where_by_hand(tmp_path):
    root = replica.make("stanford_cars", tmp_path)
    (root / "split_zhou_StanfordCars.json").unlink()
    done = run("src.prepare", "dataset=stanford_cars", f"paths.data={tmp_path}")
    assert done.returncode == 2
    assert "stanford_cars: these must be put there by hand:" in done.stderr
    assert f"{root / 'split_zhou_StanfordCars.json'}: https://raw.github" in done.stderr
    assert "cars_train: " not in done.stderr


def test_every_dataset_runs_with_every_kind_of_method(tmp_path):
    for name in replica.DATASETS:
        replica.make(name, tmp_path / "data", per_class=4)
    done = calipers(
        tmp_path, "-m", f"dataset={','.join(replica.DATASETS)}", f"method={','.join(METHODS)}",
        *replica.TINY, "shots=2", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("output/*/result.json")]
    assert {(found["dataset"], found["method"]) for found in results} == {
        (name, method) for name in replica.DATASETS for method in METHODS
    }
    for found in results:
        assert (found["n_test"], found["n_classes"]) == (12, 3)
        # Chance is 33 %: labels, names and images belong together.
        assert found["accuracy"] >= 75, found
