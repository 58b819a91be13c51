"""Tests of every benchmark dataset on replicas of its folder, from the YAML to the accuracy."""

import hashlib
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hydra.utils import get_method

from src.config import build, compose
from src.data.download import Download
from src.errors import UserError
from src.files import CONFIG_DIR
from src.prepare import main
from tests import replica
from tests.cli import calipers, run
from tests.shared import SHARED, needs_shared

ZERO_SHOT = ("zero_shot", "calip")
METHODS = (*ZERO_SHOT, "tip_adapter")
SUBSETS = ("imagenet_a", "imagenet_r")  # have only some of ImageNet's classes
PREPARED = {
    **dict.fromkeys(replica.FEW_SHOT, (6, 6, 6)),
    "imagenet": (24, 6, 6),
    **dict.fromkeys(replica.SHIFTS, (0, 0, 6)),
    **dict.fromkeys(SUBSETS, (0, 0, 4)),
}
"""Images by split in replicas with two per class."""
DIGITS = {"md5": 32, "sha256": 64}
SPLIT_FILES = {
    "eurosat": "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
    "dtd": "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
    "oxford_pets": "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
    "caltech101": "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
    "oxford_flowers": "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
    "stanford_cars": "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
    "ucf101": "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
}
"""SHA-256 of CoOp's split files in linzhiqiu/cross_modal_adaptation."""


@cache
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
        # An archive that fills the root is fetched only into an empty root; see `fetch`.
        assert Path() not in targets or len(targets) == 1
    if name in replica.DATASETS:
        assert all(template.count("{}") == 1 for template in dataset.templates)
        assert downloads or dataset.by_hand
        assert set(dataset.totals) == {"classes", *replica.SPLITS}


def test_coops_split_files_come_from_one_commit():
    urls = [
        str(entry.url)
        for name in replica.DATASETS
        for entry in composed(name).get("downloads") or []
        if "split_zhou" in entry.url
    ]
    assert len(urls) == 8, "that of Stanford Cars comes within its archive"
    (place,) = {url.rpartition("/")[0] for url in urls}
    assert re.search("/[0-9a-f]{40}/", place)


@pytest.mark.parametrize("name", replica.DATASETS)
def test_the_known_totals_agree_with_each_other(name):
    dataset = composed(name)
    for split, count in (dataset.get("per_class") or {}).items():
        assert dataset.totals[split] == count * dataset.totals.classes
    few_shot = [dataset.totals[split] > 0 for split in ("train", "val")]
    assert few_shot == [name in replica.FEW_SHOT] * 2


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_split_files_are_checked_against_the_known_checksums(name):
    """The file of Stanford Cars comes in an archive, or as a single file brought by hand."""
    dataset = composed(name)
    (entry,) = (
        entry
        for entry in (*dataset.downloads, *(dataset.get("by_hand") or []))
        if entry.to == dataset.reader.split_file
    )
    assert f"sha256:{SPLIT_FILES[name]}" in (entry.get("checksum") or entry.where)


@needs_shared
@pytest.mark.parametrize("name", ["eurosat", "dtd", "oxford_pets"])
def test_the_real_split_files_have_the_known_totals(name, tmp_path):
    reader = composed(name).reader
    path = SHARED / "coop/splits" / reader.split_file
    assert digest(path) == SPLIT_FILES[name]
    dataset = build(reader, root=str(path.parent))
    rows = [row for split in json.loads(path.read_text()).values() for row in split]
    assert list(enumerate(dataset.class_names)) == sorted(
        {(label, name) for _, label, name in rows}
    )
    totals = {split: len(items) for split, items in dataset.splits.items()}
    assert composed(name).totals == {"classes": len(dataset.class_names), **totals}
    for split, count in (composed(name).get("per_class") or {}).items():
        of_class = Counter(item.label for item in dataset.splits[split])
        assert set(of_class.values()) == {count}


def trusted(name, root):
    """Return overrides that expect the replica's split file instead of the published one."""
    return [
        f"dataset.downloads.{index}.checksum=sha256:{digest(root / entry.to)}"
        for index, entry in enumerate(composed(name).get("downloads") or [])
        if "member" not in entry
    ]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """Runs `prepare` on a dataset below `tmp_path`; returns the cells of its table's rows."""

    def run_it(*settings):
        monkeypatch.setattr("sys.argv", ["prepare", f"paths.data={tmp_path}", *settings])
        main()
        return [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]

    return run_it


@pytest.mark.parametrize(("name", "images"), PREPARED.items())
def test_prepare_accepts_a_whole_folder(name, images, tmp_path, prepare):
    root = replica.make(name, tmp_path, per_class=2)
    table = prepare(f"dataset={name}", *trusted(name, root))
    for split, count in zip(replica.SPLITS, images, strict=True):
        classes = images[-1] // 2 if count else 0
        assert [split, str(count), str(classes)] in table


@pytest.mark.parametrize(("name", "images"), PREPARED.items())
def test_check_finds_a_whole_folder_in_order(name, images, tmp_path, prepare):
    root = replica.make(name, tmp_path, per_class=2)
    counts = dict(zip(replica.SPLITS, images, strict=True))
    totals = {"classes": images[-1] // 2, **counts}
    per_class = {split: count // totals["classes"] for split, count in counts.items()}
    known = [
        f"++dataset.{key}={json.dumps(value).replace(chr(34), '')}"
        for key, value in (("totals", totals), ("per_class", per_class))
    ]
    problems = prepare("--check", f"dataset={name}", *trusted(name, root), *known)
    assert problems == [], "a line for each image with something wrong"


@pytest.mark.parametrize("name", [*replica.LAYOUTS, "fgvc_aircraft"])
def test_prepare_names_a_missing_image(name, tmp_path, prepare):
    root = replica.make(name, tmp_path, per_class=2)
    dataset = build(composed(name).reader, root=str(root))
    image = dataset.root / dataset.splits["val"][0].key
    image.unlink()
    with pytest.raises(UserError, match=rf"1 of 18 images are missing[\s\S]*{image.name}"):
        prepare(f"dataset={name}", *trusted(name, root))


def test_prepare_says_what_to_put_where_by_hand(tmp_path):
    root = replica.make("stanford_cars", tmp_path)
    (root / "split_zhou_StanfordCars.json").unlink()
    done = run("src.prepare", "dataset=stanford_cars", f"paths.data={tmp_path}")
    assert done.returncode == 2
    assert "stanford_cars: these must be put there by hand:" in done.stderr
    assert f"{root / 'split_zhou_StanfordCars.json'}: https://raw.github" in done.stderr
    assert "cars_train: " not in done.stderr


@pytest.mark.parametrize(
    ("names", "methods"),
    [
        pytest.param(replica.FEW_SHOT, METHODS, marks=pytest.mark.slow),
        (replica.SHIFTS, ZERO_SHOT),
    ],
)
def test_every_dataset_runs_with_every_kind_of_method(names, methods, tmp_path):
    for name in {*names, "imagenet"}:
        replica.make(name, tmp_path / "data", per_class=4)
    # A dataset that uses ImageNet's own names needs no copy of the file.
    (tmp_path / "data/imagenetv2/classnames.txt").unlink(missing_ok=True)
    done = calipers(
        tmp_path, "-m", f"dataset={','.join(names)}", f"method={','.join(methods)}",
        *replica.TINY, "shots=2", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("output/*/result.json")]
    assert {(found["dataset"], found["method"]) for found in results} == {
        (name, method) for name in names for method in methods
    }
    for found in results:
        classes = 2 if found["dataset"] in SUBSETS else 3
        assert (found["n_test"], found["n_classes"]) == (4 * classes, classes)
        # Chance is 33 % or 50 %; more shows that labels, names and images match.
        assert found["accuracy"] >= 75, found
