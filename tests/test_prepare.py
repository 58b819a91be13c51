import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from src.errors import UserError
from src.prepare import main

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
    """Overrides that send the YAML of EuroSAT to `server` and to a data folder of its own."""
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


def test_missing_images_are_counted_and_the_first_ten_named(settings, tmp_path):
    prepare(*settings)
    for path in (tmp_path / "data/eurosat/2750/River").iterdir():
        path.unlink()
    run = prepare(*settings)
    assert run.returncode == 2
    assert "eurosat: 16 of 24 images are missing" in run.stderr
    assert "run this again to fetch it anew" in run.stderr
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
