"""`python -m src.predict`: what it takes, what it writes, and how it goes on."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.classifier.classifier import load
from src.classifier.folder import ABOUT, read_about
from src.data import solids
from src.data.folder import EXTENSIONS
from src.errors import UserError
from src.predict import formats, part, pictures, settings
from src.results.conformal import prediction_sets
from src.results.outcome import Outcome
from src.typed import read
from tests import replica
from tests.cli import ENVIRONMENT, ROOT, Forked, calipers, finish, refused, run
from tests.test_classifier import alter
from tests.test_full_disk import SIZE_KB, small_disk

__all__ = ["small_disk"]  # a fixture

CSV, JSONL, PARQUET = "p.csv", "p.jsonl", "p.parquet"
FEW = ("dataset=solids", "dataset.points=256", "dataset.per_class={train: 1, val: 1, test: 2}")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Run zero-shot CLIP on a replica, and give the run's folder."""
    folder = tmp_path_factory.mktemp("model")
    replica.dtd(folder / "data", per_class=4)
    done = calipers(folder, "method=zero_shot", "dataset=dtd", *replica.TINY, "logger=none")
    assert done.returncode == 0, done.stderr
    return folder / "output"


@pytest.fixture(scope="module")
def flat(model, tmp_path_factory) -> Path:
    """Copy the test images into one folder, under other names."""
    folder = tmp_path_factory.mktemp("flat")
    split = json.loads((model / "../data/dtd/split_zhou_DescribableTextures.json").read_text())
    for number, (key, *_) in enumerate(split["test"]):
        shutil.copy(model / "../data/dtd/images" / key, folder / f"{number:03d}.jpg")
    return folder


@pytest.fixture(scope="module")
def clouds_model(tmp_path_factory) -> Path:
    """Run zero-shot CLIP on point clouds, and give the run's folder."""
    folder = tmp_path_factory.mktemp("clouds")
    done = calipers(folder, "method=zero_shot", *FEW, "logger=none")
    assert done.returncode == 0, done.stderr
    return folder / "output"


def predict(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run("src.predict", *arguments)


def answered(*arguments: object) -> str:
    """Predict; return what was printed."""
    done = predict(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def many(flat: Path, folder: Path, copies: int) -> Path:
    """Link to each image under several names."""
    folder.mkdir()
    for number in range(copies):
        for image in flat.iterdir():
            (folder / f"{number:02d}{image.name}").symlink_to(image)
    return folder


def test_the_three_formats_hold_the_same_answers(model, flat, tmp_path):
    images = shutil.copytree(flat, tmp_path / "images")
    (images / "005.jpg").write_bytes(b"\xff\xd8\xff")
    typed = (f"model={model}", f"images={images}", "top=2")
    told = [
        answered(*typed, f"output={tmp_path}/{name}", *(["features=true"] if name != CSV else []))
        for name in (CSV, JSONL, PARQUET)
    ]
    assert all("1 cannot be read: their class is 'damaged'" in one for one in told)
    assert f"{images}/005.jpg" in told[0]
    rows, frame = lines(tmp_path / JSONL), pd.read_parquet(tmp_path / PARQUET)
    text = table(tmp_path / CSV)
    assert list(rows[0]) == list(frame.columns) == [*text[0], "features"]
    assert [row["path"] for row in rows] == sorted(map(str, images.iterdir()))
    for row, cells, (_, record) in zip(rows, text, frame.iterrows(), strict=True):
        assert row["path"] == cells["path"] == record["path"]
        assert row["class"] == cells["class"] == record["class"]
        if row["class"] == "damaged":
            assert row["path"].endswith("005.jpg")
            assert (row["probability"], row["top"], row["features"]) == (None, None, None)
            assert (cells["probability"], cells["top"]) == ("", "")
            assert pd.isna(record["probability"])
            assert pd.isna(record["top"])
            assert pd.isna(record["features"])
            continue
        assert row["probability"] == float(cells["probability"]) == record["probability"]
        assert row["top"] == json.loads(cells["top"])
        assert row["top"] == [[one["class"], one["probability"]] for one in record["top"]]
        assert len(row["top"]) == 2
        assert row["features"] == record["features"].tolist()
    intact = [row for row in rows if row["class"] != "damaged"]
    own = load(model).features([row["path"] for row in intact])
    np.testing.assert_allclose([row["features"] for row in intact], own, rtol=1e-3, atol=1e-4)


def npy(header):
    """Write the beginning of an .npy file."""
    text = f"{header}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_classifiers_of_point_clouds_read_npy_files(clouds_model, tmp_path):
    dataset = solids.read({"train": 1, "val": 1, "test": 2}, points=256, seed=0, views=6)
    (folder := tmp_path / "flat").mkdir()
    for number, item in enumerate(dataset.splits["test"]):
        np.save(folder / f"{number:03d}.npy", dataset._points(item))
    typed = (f"model={clouds_model}", f"images={folder}", "features=true")
    assert "20 point clouds classified" in answered(*typed, f"output={tmp_path}/{JSONL}")
    outcome, rows = Outcome.read(clouds_model / "outcome.safetensors"), lines(tmp_path / JSONL)
    assert [row["class"] for row in rows] == [outcome.class_names[n] for n in outcome.prediction]
    assert np.shape(rows[0]["features"])[0] == 6
    np.savez(archive := io.BytesIO(), points=np.zeros((4, 3)))
    damages = {
        3: b"", 4: b"\x93NUMPY", 5: (folder / "005.npy").read_bytes()[:500], 6: "wrong shape",
        7: npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3)"),  # not closed
        8: npy("{'descr': '<f4', 'fortran_order': False, 'shape': (900000000000, 3), }"),
        9: archive.getvalue(), 10: "not finite", 11: "a single point",
    }  # fmt: skip
    wrong = [np.zeros((4, 2)), np.full((4, 3), np.nan), np.zeros((1, 3))]
    arrays = dict(zip((6, 10, 11), wrong, strict=True))
    for number, content in damages.items():
        array = arrays.get(number)
        path = folder / f"{number:03d}.npy"
        path.write_bytes(content) if array is None else np.save(path, array)
    (folder / "notes.jpg").write_text("no point cloud, by its name")
    assert "9 cannot be read" in answered(*typed, f"output={tmp_path}/{PARQUET}")
    frame = pd.read_parquet(tmp_path / PARQUET)
    assert np.flatnonzero(frame["class"] == "damaged").tolist() == list(damages)
    for number, row in enumerate(rows):
        if number not in damages:
            assert frame["class"][number] == row["class"]
            assert [view.tolist() for view in frame["features"][number]] == row["features"]


def test_a_calibrated_classifier_tells_the_set_of_each_image(model, flat, tmp_path):
    folder = shutil.copytree(model / "classifier", tmp_path / "c")
    second = np.sort(load(model).predict_proba(sorted(flat.iterdir())), axis=1)[:, -2]
    threshold = 1 - float(np.median(second))
    conformal = {"score": "lac", "coverage": 0.9, "threshold": threshold, "images": 40}
    alter(folder, conformal=conformal)
    for name in (CSV, JSONL, PARQUET):
        answered(f"model={folder}", f"images={flat}", f"output={tmp_path}/{name}", "top=99")
    rows, names = lines(tmp_path / JSONL), read_about(folder / ABOUT).class_names
    for row in rows:
        probability = np.array([[dict(row["top"])[name] for name in names]])
        (wanted,) = prediction_sets(probability, conformal)
        assert row["set"] == [name for name, within in zip(names, wanted, strict=True) if within]
    assert {len(row["set"]) for row in rows} >= {1, 2}
    assert [json.loads(row["set"]) for row in table(tmp_path / CSV)] == [r["set"] for r in rows]
    frame = pd.read_parquet(tmp_path / PARQUET)
    assert [cell.tolist() for cell in frame["set"]] == [row["set"] for row in rows]


def test_a_folder_of_classes_tells_its_accuracy(model, tmp_path):
    images = shutil.copytree(model / "../data/dtd/images", tmp_path / "images")
    moved = shutil.copytree(model / "classifier", tmp_path / "elsewhere")
    told = answered(f"model={moved}", f"images={images}", f"output={tmp_path}/{CSV}")
    assert "accuracy 100.00 % of 36 labelled images" in told
    (images / "a").rename(images / "other")
    told = answered(f"model={moved}", f"images={images}", f"output={tmp_path}/{CSV}")
    assert "no accuracy: the folders 'other' are no classes" in told
    assert "labelled images" not in told


def test_a_csv_file_may_say_the_class(model, flat, tmp_path):
    listed = flat.parent / "listed.csv"
    rows = [[f"{flat.name}/000.jpg", "a"], [f"{flat.name}/001.jpg", ""]]
    listed.write_text("".join(f"{path},{label}\r\n" for path, label in [["path", "label"], *rows]))
    told = answered(f"model={model}", f"images={listed}", f"output={tmp_path}/{CSV}")
    assert "accuracy 100.00 % of 1 labelled images" in told
    assert [row["label"] for row in table(tmp_path / CSV)] == ["a", ""]


def test_an_unsure_image_is_none_of_these(model, flat, tmp_path):
    answered(f"model={model}", f"images={flat}/*.jpg", f"output={tmp_path}/{CSV}")
    sure = [float(row["probability"]) for row in table(tmp_path / CSV)]
    least = sorted(sure)[6]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{image}\n" for image in sorted(flat.iterdir())))
    answered(
        f"model={model}", f"images={listed}", f"output={tmp_path}/{JSONL}", f"reject_below={least}"
    )
    found = [row["class"] == "none of these" for row in lines(tmp_path / JSONL)]
    assert found == [p < least for p in sure]


def test_an_image_that_is_listed_twice_has_two_rows(model, flat, tmp_path):
    (tmp_path / "list.txt").write_text(f"{flat}/001.jpg\n\n{flat}/000.jpg\r\n{flat}/001.jpg")
    typed = (f"model={model}", f"images={tmp_path}/list.txt")
    answered(*typed, f"output={tmp_path}/new/folder/{CSV}")
    found = [row["path"] for row in table(tmp_path / "new/folder" / CSV)]
    assert found == [f"{flat}/001.jpg", f"{flat}/000.jpg", f"{flat}/001.jpg"]
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == [CSV]


STRANGE = [
    b"a, b.jpg", b'"quoted".jpg', b"line\nline.jpg", b"<b>&amp;.jpg", b"\x1b[31m.jpg",
    b"caf\xe9.jpg", "\u2028é.jpg".encode(), b"=1+1.jpg", b"[0] *.jpg",
]  # fmt: skip


def test_names_are_written_as_they_are_and_do_not_steer_the_terminal(model, flat, tmp_path):
    (folder := tmp_path / "strange").mkdir()
    for name in STRANGE:
        shutil.copy(flat / "000.jpg", folder / os.fsdecode(name))
    (folder / os.fsdecode(STRANGE[4])).write_text("damaged")
    for name in (CSV, JSONL, PARQUET):
        told = answered(f"model={model}", f"images={folder}", f"output={tmp_path}/{name}")
        assert "\\x1b[31m.jpg" in told
    wanted = {f"{folder}/{name.decode(errors='backslashreplace')}" for name in STRANGE}
    assert {row["path"] for row in table(tmp_path / CSV)} == wanted
    assert {json.loads(row)["path"] for row in (tmp_path / JSONL).open()} == wanted
    assert set(pd.read_parquet(tmp_path / PARQUET)["path"]) == wanted
    for name in STRANGE:  # as a pattern in a name of its own
        path = folder / os.fsdecode(name)
        assert pictures.find(str(path), EXTENSIONS, "ab", []).paths == [str(path)]


def test_killed_twice_it_ends_as_if_undisturbed(model, flat, tmp_path):
    typed = [f"model={model}", f"images={many(flat, tmp_path / 'many', 40)}", "batch_size=4"]
    typed += ["top=2", "features=true"]
    answered(*typed, f"output={tmp_path}/whole.jsonl")
    rest = tmp_path / "killed.jsonl.part"
    for least in (20, 200):
        process = Forked("src.predict", *typed, f"output={tmp_path}/killed.jsonl")
        while not rest.exists() or rest.read_text().count("\n") < least:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert finish(process).returncode == -signal.SIGKILL
    told = answered(*typed, f"output={tmp_path}/killed.jsonl")
    assert "of 480 images were classified before" in told
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.jsonl*")) == [
        "killed.jsonl",
        "whole.jsonl",
    ]


@pytest.mark.parametrize("name", [CSV, JSONL, PARQUET])
def test_few_answers_at_a_time_are_in_memory(tmp_path, name):
    columns, peaks = ["path", "class", "probability", "label", "top"], []
    columns += [] if name == CSV else ["features"]
    for count in (100, 2_048, 8_192):  # the first one imports what is needed
        with (tmp_path / "part").open("w") as file:
            file.write("asked\n")
            for number in range(count):
                answer = {"path": f"{number}.jpg", "label": None, "class": "a", "probability": 0.5}
                more = {"top": [["a", 0.5]], "features": part.packed(np.ones(64, np.float16))}
                file.write(json.dumps(answer | more) + "\n")
        tracemalloc.start()
        formats.write(part.read(tmp_path / "part"), tmp_path / name, columns, views=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1] + 1e5


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda text: text, 6),
        (lambda text: text[:-5], 4),
        (lambda text: text.replace("5.jpg", "x.jpg"), 4),
        (lambda text: text.replace('{"path": "2', "\0\0\0\0"), 2),
        (lambda text: text + '{"path": "7.jpg"}\n' * 9, 6),
        (lambda text: text.replace("question", "another"), 0),
        (lambda text: "", 0),
    ],
)
def test_only_whole_batches_of_answers_that_are_sound_are_kept(tmp_path, capsys, damage, kept):
    paths = [f"{number}.jpg" for number in range(20)]
    file = tmp_path / "p.csv.part"
    assert part.resume(file, "question", paths, 2) == 0
    answers = "".join(json.dumps({"path": path}) + "\n" for path in paths[:6])
    text = file.read_text() + answers
    file.write_text(damage(text))
    assert part.resume(file, "question", paths, 2) == kept
    assert file.read_text().splitlines() == text.splitlines()[: 1 + kept]
    assert ("begun anew" in capsys.readouterr().out) == ("another" in damage(text))


def test_the_last_batch_may_be_smaller(tmp_path):
    file, paths = tmp_path / "p.csv.part", ["0", "1", "2"]
    part.resume(file, "question", paths, 2)
    with file.open("a") as answers:
        answers.writelines(json.dumps({"path": path}) + "\n" for path in paths)
    assert part.resume(file, "question", paths, 2) == 3


def test_other_settings_images_or_contents_begin_anew(model, flat, tmp_path, monkeypatch):
    from src.predict import work

    asked = []
    images = shutil.copytree(flat, tmp_path / "images")
    monkeypatch.setattr(work, "resume", lambda part, number, *_: asked.append(number) or 1 / 0)
    classifier = load(model)

    def ask(**changes):
        typed = {"model": str(model), "images": str(images), "output": f"{tmp_path}/p.csv"}
        found = pictures.find(str(images), EXTENSIONS, classifier.class_names, [])
        with pytest.raises(ZeroDivisionError):
            work.classify(classifier, found, settings.Settings(**typed, **changes))

    ask()
    ask()
    assert asked[0] == asked[1]
    for changes in ({"top": 2}, {"reject_below": 0.5}, {"batch_size": 3}):
        ask(**changes)
    os.utime(images / "000.jpg", (1, 1))
    ask()
    (images / "000.jpg").rename(images / "999.jpg")
    ask()
    classifier.about = replace(classifier.about, temperature=2.0)
    ask()
    assert len(set(asked)) == len(asked) - 1


def test_a_second_process_on_one_output_is_refused(model, flat, tmp_path):
    typed = (f"model={model}", f"images={flat}", f"output={tmp_path}/{CSV}")
    with part.claim(tmp_path / CSV):
        (tmp_path / f"{CSV}.part").write_text("of the first")
        assert f"another process is writing {tmp_path}/{CSV}" in refused(predict(*typed))
        assert (tmp_path / f"{CSV}.part").read_text() == "of the first"
    answered(*typed)
    assert [path.name for path in tmp_path.iterdir()] == [CSV]


@pytest.mark.parametrize("free_kb", [12, 48], ids=["answers", "output"])
def test_a_full_disk_is_one_message_and_the_answers_go_on_from_there(
    model, flat, tmp_path, small_disk, free_kb
):
    typed = [f"model={model}", f"images={many(flat, tmp_path / 'many', 10)}", "batch_size=8"]
    typed += ["features=true"]
    (small_disk / "taken").write_bytes(bytes(1024 * (SIZE_KB - free_kb)))
    message = refused(predict(*typed, f"output={small_disk}/{JSONL}"))
    assert "space" in message
    assert str(small_disk) in message
    assert "hydra" not in message
    assert "{settings}" not in message
    assert not (small_disk / JSONL).exists()
    (small_disk / "taken").unlink()
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    assert "images were classified before" in answered(*typed, f"output={small_disk}/{JSONL}")
    answered(*typed, f"output={tmp_path}/{JSONL}")
    assert (small_disk / JSONL).read_bytes() == (tmp_path / JSONL).read_bytes()


@contextmanager
def typed_in(text: bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        yield


def found(images: object, **given: object) -> list[str]:
    return pictures.find(
        str(images), **{"suffixes": {".jpg"}, "class_names": "ab", "written": []} | given
    ).paths


def test_folders_are_looked_through_to_any_depth_but_in_no_circle(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    hidden = (root / "a/.hidden.jpg", root / ".trash/x.jpg")
    seen = (root / "a/one.jpg", root / "b/c/two.JPG", outside / "d/three.jpg")
    for path in (*hidden, *seen, root / "b/notes.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "b/up").symlink_to(root)
    (root / "b/self").symlink_to("self")
    (root / "b/linked").symlink_to(outside)
    (root / "elsewhere.jpg").symlink_to(root / "a/one.jpg")
    names = ("a/one.jpg", "b/c/two.JPG", "b/linked/d/three.jpg", "elsewhere.jpg")
    assert found(root) == [f"{root}/{name}" for name in names]
    (root / "b/loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(UserError, match=r"loop\.jpg' is missing, or is no file"):
        found(root)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "one.jpg").touch()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/secret: Permission denied"):
        found(tmp_path)


def test_lists_patterns_and_standard_input(tmp_path, monkeypatch):
    names = ["1.jpg", "b [x].jpg", "c,d.jpg"]
    for name in names:
        (tmp_path / name).touch()
    every = [f"{tmp_path}/{name}" for name in names]
    assert found(tmp_path / "*.jpg") == found(tmp_path / "**/*.jpg") == every
    assert found(tmp_path / "[1b]*") == every[:2]
    (tmp_path / "list[1].txt").write_text("\ufeff" + "\r\n".join([*names, ""]), encoding="utf-8")
    assert found(tmp_path / "list[1].txt") == every
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path"], *([name] for name in names)])
    assert found(tmp_path / "list.csv") == every
    monkeypatch.chdir(tmp_path)
    assert found("*.jpg") == found(".") == names
    with typed_in("\n".join(names).encode()):
        assert found("-") == names
    for empty in (b"", b"\n\n"):
        with typed_in(empty), pytest.raises(UserError, match="there is no file to classify"):
            found("-")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image\nx.jpg\n", "must have the column path"),
        ("path,label\nx.jpg,zebra\n", "the classifier has no class 'zebra'"),
        ("path,label\nx.jpg\n", "line 2, does not have the header's 2 fields"),
        ("path,label\nx.jpg,a,b\n", "line 2, does not have the header's 2 fields"),
        ('path\n"x.jpg\n', "unexpected end of data"),
        ("path\ny.jpg\n", "y.jpg' is missing"),
        ('path\n""\n', "is missing, or is no file"),
        ("path\n", "there is no file to classify"),
        ("", "must have the column path"),
    ],
)
def test_a_csv_file_that_is_wrong_is_one_message(tmp_path, content, message):
    (tmp_path / "x.jpg").touch()
    (tmp_path / "l.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        found(tmp_path / "l.csv")


def test_what_is_read_is_never_overwritten(model, flat, tmp_path):
    listed = tmp_path / "l.csv"
    listed.write_text(f"path\n{flat}/000.jpg\n")
    (tmp_path / "link.csv").hardlink_to(listed)
    for output in (listed, tmp_path / "link.csv"):
        message = refused(predict(f"model={model}", f"images={listed}", f"output={output}"))
        assert "is what images= names" in message
    shutil.copy(flat / "000.jpg", tmp_path / "x.csv.part")
    (tmp_path / "l.txt").write_text("x.csv.part")
    message = refused(
        predict(f"model={model}", f"images={tmp_path}/l.txt", f"output={tmp_path}/x.csv")
    )
    assert "is the output, and one of the images" in message
    assert listed.read_text() == f"path\n{flat}/000.jpg\n"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["model=/nowhere", "images=src"], "model=/nowhere is no folder"),
        (["model={model}/..", "images=src"], "Give the folder of a run that ended"),
        (["model={model}", "images=src"], "there is no file to classify (.avif"),
        (["model={model}"], "images=... is missing"),
        (["images=src"], "model=... is missing"),
        (["model={model}", "images="], "images=... is missing"),
        (["model={model}", "images={flat}", "output=a.txt"], "ends in .csv, .jsonl or .parquet"),
        (["model={model}", "images={flat}", "output="], "ends in .csv, .jsonl or .parquet"),
        (["model={model}", "images={flat}", "output={folder}"], "give the name of a file"),
        (["model={model}", "images={flat}", "features=true"], "CSV has no place"),
        (["model={model}", "images={flat}", "features=2"], "features=2: give true or false"),
        (["model={model}", "images={flat}", "top=0"], "top=0"),
        (["model={model}", "images={flat}", "top=many"], "top=many: give an integer"),
        (["model={model}", "images={flat}", "batch_size=0"], "batch_size=0"),
        (["model={model}", "images={flat}", "reject_below=nan"], "reject_below=nan"),
        (["model={model}", "images={flat}", "reject_below=50"], "from 0 to 1"),
        (["model={model}", "images={flat}", "tops=2"], "Did you mean top=...?"),
        (["model={model}", "{flat}"], "there is no setting '/"),
        (["model={model}", "images=/no/such.txt"], "images=/no/such.txt is missing"),
        (["model={model}", "images=*.nothing"], "there is no file to classify"),
        (["model={model}", "images=pyproject.toml"], "is missing, or is no file"),
        (["model={model}", "images={flat}", "output=pyproject.toml/p.csv"], "pyproject.toml"),
    ],
)
def test_a_mistake_ends_in_one_message(model, flat, tmp_path, typed, message):
    (folder := tmp_path / "folder.csv").mkdir()
    words = [one.format(model=model, flat=flat, folder=folder) for one in typed]
    if not any(one.startswith("output") for one in words):
        words.append(f"output={tmp_path}/{CSV}")
    assert message in refused(predict(*words))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_settings_are_taken_as_they_are_typed(tmp_path):
    typed = ["model=.", "images=*.jpg", "output=1_0.csv", "top=3", "reject_below=0.5"]
    chosen = read(settings.Settings, [*typed, "features=False"])
    assert (chosen.images, chosen.output, chosen.top) == ("*.jpg", "1_0.csv", 3)
    assert read(settings.Settings, ["model=.", "images=-"]).images == "-"


def test_help_and_mistakes_do_not_wait_for_torch():
    code = (
        "import sys, src.predict.__main__, src.predict.pictures; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert "reject_below" in answered("--help")


@pytest.fixture(scope="module")
def twenty_thousand(tmp_path_factory) -> Path:
    """Make many small JPEGs; list all of them, and 5,000, in two text files."""
    folder = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    for number in range(20_000):
        squares = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        path = folder / f"{number // 1000:02d}/{number:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(squares.repeat(8, axis=0).repeat(8, axis=1)).save(path)
    for count in (5_000, 20_000):
        names = [f"{number // 1000:02d}/{number:05d}.jpg\n" for number in range(count)]
        (folder / f"{count}.txt").write_text("".join(names))
    return folder


MEASURED = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-m", "src.predict", *sys.argv[1:]], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images_nor_do_kills_change_the_answers(
    model, twenty_thousand, tmp_path
):
    typed, peaks = (f"model={model}", "top=3", "features=true"), {}
    for count in (5_000, 20_000):
        words = [
            *typed,
            f"images={twenty_thousand}/{count}.txt",
            f"output={tmp_path}/{count}.parquet",
        ]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *words],
            cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks[count] = float(done.stdout)
    assert peaks[20_000] - peaks[5_000] < 25, "MiB, most of it the names of 15,000 more images"
    typed = [*typed, f"images={twenty_thousand}/5000.txt", f"output={tmp_path}/killed.parquet"]
    rest = tmp_path / "killed.parquet.part"
    for least in (1e5, 7e5):
        process = Forked("src.predict", *typed)
        while not rest.exists() or rest.stat().st_size < least:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        finish(process)
    done = run("src.predict", *typed)
    assert done.returncode == 0, done.stderr
    assert "of 5,000 images were classified before" in done.stdout
    killed, whole = (tmp_path / f"{name}.parquet" for name in ("killed", "5000"))
    assert killed.read_bytes() == whole.read_bytes()
    assert pd.read_parquet(killed, columns=["path"])["path"].is_unique
