import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from src.config import compose
from src.errors import UserError
from src.files import CONFIG_DIR
from src.prepare import main
from tests import replica, replica_3d
from tests.cli import refused

ROOT = Path(__file__).resolve().parents[1]
SPLIT = {
    split: [[f"{name}/{split}{number}.jpg", label, name] for number in range(8)]
    for split, label, name in [("train", 0, "River"), ("val", 1, "Forest"), ("test", 0, "River")]
}


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"no_proxy": "127.0.0.1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def prepare(*settings):
    return python("-m", "src.prepare", *settings)


def table(run):
    return [line.replace("│", " ").split() for line in run.stdout.splitlines()]


@pytest.fixture
def server(tmp_path):
    """Serves the folder `tmp_path / "www"`, which holds a small EuroSAT."""
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "split.json").write_text(json.dumps(SPLIT))
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for rows in SPLIT.values():
            for path, _, _ in rows:
                archive.writestr(f"EuroSAT/{path}", path)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def settings(server, tmp_path):
    """Return overrides that point the YAML of EuroSAT to `server` and to its own data folder."""
    result = ["dataset=eurosat", f"paths.data={tmp_path / 'data'}"]
    for index, name in enumerate(("images.zip", "split.json")):
        digest = hashlib.sha256((tmp_path / "www" / name).read_bytes()).hexdigest()
        result += [
            f"dataset.downloads.{index}.url=http://127.0.0.1:{server.server_port}/{name}",
            f"dataset.downloads.{index}.checksum=sha256:{digest}",
        ]
    return [*result, "dataset.downloads.0.member=EuroSAT"]


def test_an_embedded_dataset_needs_nothing_not_even_torch():
    run = python(
        "-c",
        "import runpy, sys; sys.argv[1:] = ['dataset=digits'];"
        "runpy.run_module('src.prepare', run_name='__main__');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'open_clip')))",
    )
    assert run.returncode == 0, run.stderr
    assert "digits: nothing needs preparing" in run.stdout
    for row in ["train", "718", "10"], ["val", "359", "10"], ["test", "720", "10"]:
        assert row in table(run)


def test_a_dataset_is_fetched_once_and_its_splits_are_shown(settings, server, tmp_path):
    run = prepare(*settings)
    assert run.returncode == 0, run.stderr
    assert all([split, "8", "1"] in table(run) for split in SPLIT)
    folder = tmp_path / "data/eurosat"
    assert (folder / "2750/River/train0.jpg").read_text() == "River/train0.jpg"
    assert {path.name for path in folder.iterdir()} == {
        "2750",
        "split_zhou_EuroSAT.json",
        ".downloads",
    }
    server.shutdown()
    assert prepare(*settings).returncode == 0


def test_every_failing_download_is_named_with_its_place(settings, tmp_path):
    for path in (tmp_path / "www").iterdir():
        path.unlink()
    run = prepare(*settings)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    for expected in (
        "/images.zip",
        "/split.json",
        str(tmp_path / "data/eurosat/.downloads/images.zip"),
        str(tmp_path / "data/eurosat/split_zhou_EuroSAT.json"),
        "sha256:",
    ):
        assert expected in run.stderr


def test_a_failing_mirror_of_a_dead_host_is_named_with_what_to_bring_by_hand(server, tmp_path):
    url = f"http://127.0.0.1:{server.server_port}/gone.zip"
    run = prepare(
        "dataset=stanford_cars", f"paths.data={tmp_path}/data", f"dataset.downloads.0.url={url}"
    )
    assert run.returncode == 2
    assert f"cannot download {url}" in run.stderr
    assert "Instead of them, these must be put there by hand:" in run.stderr
    assert f"{tmp_path}/data/stanford_cars/cars_train: its folder of the same name" in run.stderr
    assert "since Stanford's own host (ai.stanford.edu/~jkrause/cars) is gone" in run.stderr


def test_missing_images_are_counted_and_the_first_ten_named(settings, tmp_path):
    prepare(*settings)
    for path in (tmp_path / "data/eurosat/2750/River").iterdir():
        path.unlink()
    run = prepare(*settings)
    assert run.returncode == 2
    assert "eurosat: 16 of 24 images are missing" in run.stderr
    assert "run this again to fetch it" in run.stderr
    assert run.stderr.count(".jpg") == 10
    assert str(tmp_path / "data/eurosat/2750/River/train0.jpg") in run.stderr


def test_one_dataset_that_fails_does_not_stop_the_next(settings, tmp_path):
    other = tmp_path / "data/eurosat/split_zhou_EuroSAT.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    run = prepare("dataset=eurosat,dtd", *settings[1:])
    assert run.returncode == 2
    assert f"eurosat: these downloads failed:\n  {other}" in run.stderr
    assert "dtd:" not in run.stderr
    assert ["dtd"] in table(run)
    assert (tmp_path / "data/dtd/images/River/train0.jpg").is_file()


def test_features_from_elsewhere_need_no_preparing(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["prepare", "dataset=precomputed"])
    main()
    assert "need no preparing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("url:'http://h/x',checksum:'md5:0',to:x,memb:y", "dataset.downloads: .*memb"),
        ("url:'http://h/x',to:x", "dataset.downloads: .*checksum"),
        ("url:'ftp://h/x',checksum:'md5:0',to:x", "neither http nor https"),
    ],
)
def test_a_malformed_download_is_the_users_mistake(entry, message, tmp_path, monkeypatch):
    settings = ["dataset=eurosat", f"dataset.downloads=[{{{entry}}}]", f"paths.data={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["prepare", *settings])
    with pytest.raises(UserError, match=message):
        main()


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """Runs `prepare --check` on `tmp_path`; returns its lines, error output and error message."""

    def run(*settings):
        argv = ["prepare", f"paths.data={tmp_path}", "--check", *settings]
        monkeypatch.setattr("sys.argv", argv)
        message = None
        try:
            main()
        except UserError as error:
            message = str(error)
        captured = capsys.readouterr()
        return captured.out.splitlines(), captured.err, message

    return run


def trusted(dataset, root, per_class=6):
    """Return settings that expect the replica of `dataset` instead of the published one."""
    totals = {"classes": 3} | dict.fromkeys(replica.SPLITS, 3 * per_class)
    (split_file,) = root.glob("split_zhou_*.json")
    digest = hashlib.sha256(split_file.read_bytes()).hexdigest()
    return [
        f"dataset={dataset}",
        f"++dataset.totals={totals}".replace("'", ""),
        f"++dataset.per_class={dict.fromkeys(replica.SPLITS, per_class)}".replace("'", ""),
        f"dataset.downloads.1.checksum=sha256:{digest}",
    ]


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_check_finds_nothing_wrong_with_a_whole_dataset_and_changes_nothing(tmp_path, checked):
    settings = trusted("dtd", replica.dtd(tmp_path))
    before = contents(tmp_path)
    lines, table, message = checked(*settings)
    assert (lines, message) == ([], None)
    assert "dtd: nothing is wrong" in table
    assert contents(tmp_path) == before


def test_check_lists_every_bad_image_and_counts_them_by_split(tmp_path):
    root = replica.dtd(tmp_path)
    settings = trusted("dtd", root)
    truncated, empty, text, gone = (root / f"images/b/b_000{n}.jpg" for n in (2, 5, 3, 8))
    truncated.write_bytes(truncated.read_bytes()[:-300])
    empty.write_bytes(b"")
    text.write_text("<html>429 Too Many Requests</html>")
    gone.unlink()
    done = prepare(*settings, "--check", f"paths.data={tmp_path}")
    message = refused(done)
    found = dict(line.split("\t") for line in done.stdout.splitlines())
    assert found.pop(str(truncated)).startswith("image file is truncated")
    assert found == {
        str(empty): "the file is empty",
        str(text): "not an image",
        str(gone): "missing",
    }
    rows = [line.replace("│", " ").split() for line in done.stderr.splitlines()]
    assert ["train", "18", "18", "3", "0", "1"] in rows
    assert ["val", "18", "18", "3", "0", "0"] in rows
    assert ["test", "18", "18", "3", "1", "2"] in rows
    assert message.startswith("error: dtd: 1 missing and 3 damaged of 54 images.")
    assert "run `python -m src.prepare dataset=dtd` to fetch it again" in message


def test_check_compares_with_what_is_published(tmp_path, checked):
    root = replica.dtd(tmp_path)
    lines, table, message = checked("dataset=dtd")
    assert lines == []
    assert "18 images in test, not 1,692" in table
    assert "3 classes, not 47" in table
    assert "6 images of 'a' in test, not 36" in table
    split_file = root / "split_zhou_DescribableTextures.json"
    assert f"{split_file} (https://raw.githubusercontent.com" in message
    assert "not sha256:f26ebecc" in message
    assert "13 of the counts above are not the published ones" in message


def test_check_without_anything_published_compares_nothing(tmp_path, checked):
    settings = trusted("dtd", replica.dtd(tmp_path))
    _, table, message = checked(*settings, "dataset.totals=null", "dataset.per_class=null")
    assert message is None
    assert "published" not in table


def test_check_names_test_images_that_another_split_lists(tmp_path, checked):
    root = replica.dtd(tmp_path)
    split_file = root / "split_zhou_DescribableTextures.json"
    rows = json.loads(split_file.read_text())
    rows["train"][0] = rows["test"][0]
    split_file.write_text(json.dumps(rows))
    lines, _, message = checked(*trusted("dtd", root))
    assert lines == [f"{root / 'images' / rows['test'][0][0]}\tlisted by train and by test"]
    assert message.startswith("dtd: 1 test images are listed by another split too")


def test_check_of_several_goes_on_after_a_bad_one(tmp_path, checked):
    (replica.make("eurosat", tmp_path) / "2750/a/a_0.jpg").unlink()
    replica.dtd(tmp_path)
    settings = ["++dataset.totals=null", "++dataset.per_class=null", "dataset.downloads=null"]
    lines, table, message = checked("dataset=eurosat,dtd,caltech101", *settings)
    assert lines == [f"{tmp_path}/eurosat/2750/a/a_0.jpg\tmissing"]
    assert "dtd: nothing is wrong" in table
    first, second = message.splitlines()
    assert first.startswith("eurosat: 1 missing and 0 damaged of 54 images. Put")
    assert second.startswith(f"caltech101: the dataset folder {tmp_path}/caltech-101 is missing")


def test_check_decodes_the_users_own_images(tmp_path, checked):
    images = replica.dtd(tmp_path) / "images"
    (images / "c/c_0007.jpg").write_bytes(b"")
    lines, _, message = checked("dataset=folder", f"dataset.path={images}", "dataset.name=mine")
    assert lines == [f"{images}/c/c_0007.jpg\tthe file is empty"]
    assert message.startswith("mine: 0 missing and 1 damaged of 54 images.")
    assert "on_bad_image=skip" in message


def clouds(tmp_path):
    """Make a replica of ModelNet40, 3 classes of 8 + 2 + 5 clouds, and settings that expect it."""
    root = replica_3d.modelnet(tmp_path, points=8)
    totals = "++dataset.totals={classes: 3, train: 24, val: 6, test: 15}"
    per_class = "++dataset.per_class={train: 8, val: 2, test: 5}"
    return root, ["dataset=modelnet40", "++dataset.downloads=null", totals, per_class]


def test_check_reads_every_point_cloud(tmp_path, checked):
    _, settings = clouds(tmp_path)
    before = contents(tmp_path)
    lines, said, message = checked(*settings)
    assert (lines, message) == ([], None)
    assert "modelnet40: nothing is wrong" in said
    assert contents(tmp_path) == before
    rows = [line.replace("│", " ").split() for line in said.splitlines()]
    assert ["test", "15", "15", "3", "0", "0"] in rows


def test_check_lists_every_bad_point_cloud_and_compares_counts(tmp_path, checked):
    root, settings = clouds(tmp_path)
    with h5py.File(root / "ply_data_test0.h5", "r+") as content:
        content["data"][4, 3, 1] = np.nan
        content["data"][9] = 0.5
    lines, said, message = checked(*settings, "dataset.per_class.val=3", "dataset.totals.test=16")
    assert lines == [
        f"{root}/ply_data_test0.h5:4\thas coordinates that are not finite numbers",
        f"{root}/ply_data_test0.h5:9\tis empty: it has no two different points",
    ]
    assert "15 point clouds in test, not 16" in said
    assert "2 point clouds of 'a' in val, not 3" in said
    first, second = message.splitlines()
    assert first.startswith("modelnet40: 4 of the counts above are not the published ones")
    assert "0 missing and 2 damaged of 45 point clouds. Put intact copies there." in second


def test_check_names_the_files_of_point_clouds_that_are_missing_or_listed_twice(tmp_path, checked):
    root, settings = clouds(tmp_path)
    (root / "test_files.txt").write_text("ply_data_test0.h5\nply_data_train0.h5\n")
    lines, _, message = checked(*settings)
    assert f"{root}/ply_data_train0.h5:0\tlisted by train and by test" in lines
    assert "15 test point clouds are listed by another split too" in message
    (root / "ply_data_train1.h5").unlink()
    lines, _, message = checked("dataset=modelnet40,scanobjectnn,solids", *settings[1:2])
    assert lines == []
    first, second = message.splitlines()
    assert first.startswith(f"modelnet40: the file {root}/ply_data_train1.h5 is missing. Move its")
    assert second.startswith(f"scanobjectnn: the file {tmp_path}/scanobjectnn/main_split/training_")


@pytest.mark.parametrize("name", ["digits", "solids", "precomputed"])
def test_what_has_no_files_is_not_checked(name, checked):
    lines, said, message = checked(f"dataset={name}")
    assert (lines, message) == ([], None)
    assert name in said or "features" in said


def fetched():
    return [path.stem for path in sorted((CONFIG_DIR / "dataset").glob("*.yaml"))
            if any(key in path.read_text() for key in ("\ndownloads:", "\nby_hand:"))]  # fmt: skip


def test_all_is_every_dataset_that_is_fetched_and_goes_on_after_failures(
    tmp_path, checked, monkeypatch
):
    composed = cache(lambda *settings: compose(settings))
    monkeypatch.setattr("src.prepare.compose", lambda settings: composed(*settings))
    assert {"dtd", "fgvc_aircraft", "ucf101"} < set(fetched())
    assert not {"digits", "letters", "folder", "precomputed"} & set(fetched())
    _, _, message = checked("dataset=all")
    assert re.findall(r"^(\w+): ", message, re.MULTILINE) == fetched()
    assert message.count("missing") >= len(fetched())
    assert list(tmp_path.iterdir()) == []

    tried = []

    def fail(download, root):
        tried.append(root.name)
        raise UserError(f"{download.url} cannot be reached")

    monkeypatch.setattr("src.prepare.fetch", fail)
    monkeypatch.setattr("sys.argv", ["prepare", "dataset=all", f"paths.data={tmp_path}"])
    with pytest.raises(UserError) as caught:
        main()
    assert re.findall(r"^(\w+): ", str(caught.value), re.MULTILINE) == fetched()
    assert {"eurosat", "dtd", "food-101"} < set(tried)


def test_help_explains_both():
    text = prepare("--help").stdout
    assert "--check" in text
    assert "dataset=all" in text
    assert "cut -f1" in text
