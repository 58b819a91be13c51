"""`dataset=hub`: tables of the Hub, which a server on this machine stands for, and of folders."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from src.data import hub_tables
from src.data.hub import TableImages, choose_splits, read
from src.data.images import DamagedImageError
from src.errors import UserError

datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")

ROOT = Path(__file__).parents[2]
NAMES = ["ant", "bee", "cow"]
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
COMMIT, OLDER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
NOTE = f"commit {COMMIT} of the Hub"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def table(labels: Sequence[object], features: datasets.Features = FEATURES, first: int = 0):
    """Make a table of noise; row `r` holds `picture(first + r)`."""
    image, label = features
    cells = [{"bytes": picture(first + row), "path": None} for row in range(len(labels))]
    return datasets.Dataset.from_dict({image: cells, label: list(labels)}, features=features)


def write(folder: Path, **splits: datasets.Dataset) -> Path:
    """Write a Parquet file for each split, as the Hub names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, each in splits.items():
        each.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def given(path: object, **settings: object) -> TableImages:
    defaults = dict.fromkeys(("config", "revision", "image", "label", "class_names"))
    return read(path, **{"split": {}, "split_seed": 0} | defaults | settings)  # type: ignore[arg-type]


def refusal(path: object, **settings: object) -> str:
    with pytest.raises(UserError) as raised:
        given(path, **settings)
    return str(raised.value)


def counts(found: TableImages) -> list[int]:
    return [len(found.splits[split]) for split in ("train", "val", "test")]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return write(
        tmp_path / "mine",
        train=table([0, 1, 2, 2, 1, 0], first=0),
        validation=table([0, 1, 2], first=50),
        test=table([2, 1, 0, 0], first=80),
    )


def test_rows_keep_their_order_and_images_stay_as_they_are(mine: Path) -> None:
    found = given(mine)
    assert found.class_names == NAMES
    assert counts(found) == [6, 3, 4]
    test = found.splits["test"]
    assert [item.label for item in test] == [2, 1, 0, 0]
    assert [item.key for item in test] == [f"test/{row}" for row in range(4)]
    for row, item in enumerate(test):
        with Image.open(io.BytesIO(picture(80 + row))) as image:
            assert np.array_equal(found.load(item), image)
    assert found.where(test[3]) == f"{mine}:test:3"


@pytest.mark.parametrize("layout", ["data", "shards", "folders", "save_to_disk", "plain", "bytes"])
def test_every_layout_holds_the_same(mine: Path, tmp_path: Path, layout: str) -> None:
    folder, expected = tmp_path / layout, given(mine)
    parts = {path.name.split("-")[0]: pq.read_table(path) for path in mine.iterdir()}
    splits = {name: datasets.Dataset(part) for name, part in parts.items()}
    if layout == "data":
        write(folder / "data", **splits)
    elif layout == "folders":
        for name, each in splits.items():
            write(folder / name, part=each)
    elif layout == "save_to_disk":
        datasets.DatasetDict(splits).save_to_disk(str(folder))
    elif layout == "shards":
        folder.mkdir()
        for name, each in splits.items():
            for number in range(2):
                shard = each.shard(2, number, contiguous=True)
                shard.to_parquet(str(folder / f"{name}-{number:05d}-of-00002.parquet"))
    else:  # as pandas and others write them, without the library's notes
        folder.mkdir()
        for name, part in parts.items():
            cells, labels = part["image"].to_pylist(), part["label"].to_pylist()
            if layout == "bytes":
                cells = [cell["bytes"] for cell in cells]
            plain = pa.table({"image": cells, "label": [NAMES[number] for number in labels]})
            pq.write_table(plain, folder / f"{name}.parquet")
    found = given(folder)
    assert found.class_names == NAMES
    for split, items in expected.splits.items():
        assert list(found.splits[split]) == list(items)
        for item in items:
            assert np.array_equal(found.load(item), expected.load(item))


def test_a_table_goes_to_another_process_by_its_path(tmp_path: Path) -> None:
    write(tmp_path / "mine", train=table([0, 1] * 30), test=table([0, 1] * 30))
    found = given(tmp_path / "mine")
    content = pickle.dumps(found)
    assert len(content) < 60 * len(picture(0))
    again = pickle.loads(content)
    item = found.splits["test"][7]
    assert np.array_equal(again.load(item), found.load(item))


def test_the_fingerprint_is_the_same_in_another_process_and_with_another_cache(
    mine: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    datasets.DatasetDict(train=table([0, 1] * 4), test=table([0, 1])).save_to_disk(str(saved))
    code = (
        "import sys; from src.data.hub import read\n"
        "for path in sys.argv[1:]:\n"
        "    found = read(path, None, None, None, None, {}, None, 0)\n"
        "    print(found.fingerprint(found.splits['train']))\n"
        "print('torch' in sys.modules)"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "elsewhere")}
    done = subprocess.run(
        [sys.executable, "-c", code, mine, saved],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [given(path) for path in (mine, saved)]
    prints = [each.fingerprint(each.splits["train"]) for each in found]
    assert done.stdout.split() == [*prints, "False"]
    assert done.stderr == ""


def test_the_fingerprint_follows_the_files_and_the_rows(mine: Path) -> None:
    found = given(mine)
    rows = found.splits["train"]
    prints = {found.fingerprint(rows), found.fingerprint(rows[:3]), found.fingerprint(rows[3:])}
    assert len(prints) == 3
    assert found.fingerprint(list(rows)) == found.fingerprint(rows)
    file = mine / "test-00000-of-00001.parquet"
    before = file.stat()
    write(mine, test=table([2, 1, 0, 0], first=500))
    # Even with the time of before: the library itself would look at nothing else.
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    other = given(mine)
    assert other.fingerprint(other.splits["train"]) not in prints
    with Image.open(io.BytesIO(picture(500))) as image:
        assert np.array_equal(other.load(other.splits["test"][0]), image)
    moved = mine.rename(mine.with_name("moved"))
    assert given(moved).fingerprint(rows) == other.fingerprint(rows)
    moved.rename(mine)
    os.utime(file)
    assert given(mine).fingerprint(rows) not in {*prints, other.fingerprint(rows)}


# Splits.


@pytest.mark.parametrize(
    ("names", "given_splits", "expected"),
    [
        (["train", "validation", "test"], {}, ["train", "validation", "test"]),
        (["train", "valid", "test"], {}, ["train", "valid", "test"]),
        (["training", "dev", "testing"], {}, ["training", "dev", "testing"]),
        (["train", "test"], {}, ["train", None, "test"]),
        (["train", "validation"], {}, ["train", None, "validation"]),
        (["validation"], {}, [None, None, "validation"]),
        (["test"], {}, [None, None, "test"]),
        (["whole"], {}, ["whole", None, None]),
        (["train", "validation", "test"], {"test": "validation"}, ["train", None, "validation"]),
        (["a", "b", "test"], {"train": "b"}, ["b", None, "test"]),
    ],
)
def test_splits_are_found_by_their_usual_names(names, given_splits, expected) -> None:
    chosen, _ = choose_splits(given_splits, names, "x")
    assert list(chosen.values()) == expected


@pytest.mark.parametrize(
    ("names", "given_splits", "message"),
    [
        (["a", "b"], {}, r"which split of x is tested on\? Give .*There are 'a', 'b'"),
        (["train", "test"], {"val": "vl"}, r"split\.val=vl: x has no .* 'train', 'test'"),
        (["train", "test"], {"train": "test", "test": "test"}, r"names the split 'test' twice"),
        (["train", "test"], {"vall": "test"}, r"dataset\.split\.vall: there is no such split"),
        (["train", "test"], "train", r"dataset\.split=train names no split"),
        (["train", "val"], {"val": "val"}, r"which split of x is tested on\?"),
    ],
)
def test_splits_that_cannot_be_found_are_refused(names, given_splits, message) -> None:
    with pytest.raises(UserError, match=message):
        choose_splits(given_splits, names, "x")


def test_val_is_drawn_from_train_and_that_is_said(tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    write(tmp_path / "mine/data", train=table([0, 1] * 10), test=table([0, 1]), extra=table([0]))
    found = given(tmp_path / "mine")
    assert counts(found) == [16, 4, 2]
    both = [*found.splits["train"], *found.splits["val"]]
    assert len({item.key for item in both}) == 20
    assert found.notes == [
        "left out, as dataset.split does not name them: 'extra'",
        "val is 20% of each class of 'train', drawn with dataset.split_seed=0",
    ]
    assert all(f"{tmp_path}/mine: {note}" in caplog.text for note in found.notes)
    others = given(tmp_path / "mine", split_seed=1).splits["val"]
    assert list(others) != list(found.splits["val"])


def test_an_undivided_dataset_is_divided(tmp_path: Path) -> None:
    write(tmp_path / "mine", train=table([0, 1] * 10))
    found = given(tmp_path / "mine")
    assert counts(found) == [10, 4, 6]
    assert len({item.key for items in found.splits.values() for item in items}) == 20
    assert found.notes[0] == "there is one split, 'train'"
    assert "50 % are train, 20 % val and 30 % test" in found.notes[1]
    write(tmp_path / "mine", train=table([0, 1, 1, 1, 0, 2, 2, 2]))
    assert r"too few images of 'ant (2)' to divide" in refusal(tmp_path / "mine")


def test_without_a_test_split_the_validation_split_is_tested_on(tmp_path: Path) -> None:
    write(tmp_path / "mine", train=table([0, 1] * 10), validation=table([0, 1, 1]))
    found = given(tmp_path / "mine")
    assert counts(found) == [16, 4, 3]
    assert found.notes[0] == "there is no test split: 'validation' is tested on"


# Columns and labels.


def columns(**types: object) -> datasets.Features:
    return datasets.Features(types)


def with_columns(tmp_path: Path, features: datasets.Features) -> Path:
    """Write a test split with these columns, of two rows."""
    values: dict[type, list[object]] = {
        datasets.Image: [{"bytes": picture(0), "path": None}] * 2,
        datasets.ClassLabel: [0, 1],
    }
    plain = {"string": ["x", "y"], "int64": [4, 7], "float32": [0.5, 1.5]}
    content = {
        name: values[type(one)] if type(one) in values else plain[one.dtype]
        for name, one in features.items()
    }
    return write(tmp_path / "m", test=datasets.Dataset.from_dict(content, features=features))


IMAGE, CLASS = datasets.Image(), datasets.ClassLabel(names=["p", "q"])
WORD, NUMBER, REAL = (datasets.Value(kind) for kind in ("string", "int64", "float32"))


@pytest.mark.parametrize(
    ("features", "settings", "expected"),
    [
        (columns(img=IMAGE, fine=CLASS, id=NUMBER), {}, ["p", "q"]),
        (columns(img=IMAGE, label=WORD, id=NUMBER), {}, ["x", "y"]),
        (columns(img=IMAGE, kind=WORD), {"label": "kind"}, ["x", "y"]),
        (columns(img=IMAGE, kind=NUMBER), {"label": "kind"}, ["4", "7"]),
        (columns(a=IMAGE, b=IMAGE, kind=CLASS), {"image": "b"}, ["p", "q"]),
        (columns(kind=CLASS, a=REAL, b=IMAGE), {}, ["p", "q"]),
    ],
)
def test_columns_are_found(tmp_path: Path, features, settings, expected) -> None:
    found = given(with_columns(tmp_path, features), **settings)
    assert found.class_names == expected
    assert [item.label for item in found.splits["test"]] == [0, 1]
    assert found.load(found.splits["test"][1]).size == (9, 8)


@pytest.mark.parametrize(
    ("features", "settings", "message"),
    [
        (columns(a=IMAGE, b=IMAGE, k=CLASS), {}, "holds images: .*dataset.image=.* 'a', 'b'"),
        (columns(a=IMAGE, k=CLASS, m=CLASS), {}, "holds classes: .*dataset.label=.* 'k', 'm'"),
        (columns(a=IMAGE, k=WORD), {}, "holds classes: .*dataset.label=.* 'k'"),
        (columns(a=IMAGE, k=REAL), {}, "no column that can hold classes: its .* 'a', 'k'"),
        (columns(a=WORD, k=CLASS), {}, "no column that can hold images: its .* 'a', 'k'"),
        (columns(a=IMAGE, k=CLASS), {"label": "z"}, "dataset.label=z: .* no such column.* 'k'"),
        (columns(a=IMAGE, k=CLASS), {"image": "k"}, "no images in that column.* 'a'"),
        (columns(a=IMAGE, k=CLASS, r=REAL), {"label": "r"}, "no classes in that column.* 'k'"),
    ],
)
def test_columns_that_are_not_clear_are_refused(tmp_path: Path, features, settings, message):
    with pytest.raises(UserError, match=message):
        given(with_columns(tmp_path, features), **settings)


def raw(path: Path, labels: Sequence[object], images: Sequence[object] | None = None) -> Path:
    """Write a test split around the library, which would not write such labels."""
    noted = table([0]).data.table.schema
    cells = images or [{"bytes": picture(row), "path": None} for row in range(len(labels))]
    arrays = [pa.array(cells, noted.field(0).type), pa.array(labels, pa.int64())]
    path.mkdir()
    pq.write_table(pa.Table.from_arrays(arrays, schema=noted), path / "test.parquet")
    return path


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, None], "'test', row 2: there is no label, and in 1 of 3 rows"),
        ([-1, -1, -1], "row 0: the label is -1, and in 3 of 3 .*dataset.split.test=validation"),
        ([0, 3, 1], "row 1: the label is 3, and the 3 classes are 0 to 2"),
        ([0, 1, -7], "row 2: the label is -7, and the 3 classes are 0 to 2"),
    ],
)
def test_labels_of_no_class_are_refused(tmp_path: Path, labels, message) -> None:
    with pytest.raises(UserError, match=message):
        given(raw(tmp_path / "mine", labels))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "there is no image in this row"),
        ({"bytes": None, "path": None}, "there is no image in this row"),
        ({"bytes": b"", "path": None}, "the file is empty"),
        ({"bytes": b"<html>", "path": None}, "not an image"),
        ({"bytes": picture(0)[:60], "path": "a.png"}, "truncated"),
        ({"bytes": None, "path": "a.png"}, "the table holds its path only, a.png"),
    ],
)
def test_rows_without_an_image_are_damaged_images(tmp_path: Path, cell, message) -> None:
    good = {"bytes": picture(1), "path": "b.png"}
    found = given(raw(tmp_path / "mine", [0, 1], [good, cell]))
    assert found.load(found.splits["test"][0]).size == (9, 8)
    with pytest.raises(DamagedImageError, match=message) as raised:
        found.load(found.splits["test"][1])
    assert raised.value.where == f"{tmp_path}/mine:test:1"


def test_a_path_alone_is_read_from_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(3))
    cells = [{"bytes": None, "path": str(tmp_path / name)} for name in ("a.png", "b.png")]
    found = given(raw(tmp_path / "mine", [0, 1], cells))
    assert found.load(found.splits["test"][0]).size == (9, 8)
    with pytest.raises(UserError, match=r"b\.png is missing"):
        found.load(found.splits["test"][1])


def test_class_names_come_from_a_file_and_numbers_are_warned_of(tmp_path, caplog) -> None:
    features = columns(image=IMAGE, label=NUMBER)
    write(tmp_path / "mine", test=table([7, 12, 7], features))
    found = given(tmp_path / "mine")
    assert (found.class_names, [item.label for item in found.splits["test"]]) == (
        ["7", "12"],
        [0, 1, 0],
    )
    assert "says nothing to CLIP" in caplog.text
    caplog.clear()
    (tmp_path / "names.json").write_text(json.dumps({"7": "a fox", "12": "a hen"}))
    named = given(tmp_path / "mine", class_names=tmp_path / "names.json")
    assert named.class_names == ["a fox", "a hen"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["x", "x"], "has too few classes, 'x'"),
        (["x", " "], "row 1: the label is blank"),
        ([], "has too few classes, none"),
        (["a_b", "A B"], "the same name in a prompt"),
    ],
)
def test_words_that_are_no_classes_are_refused(tmp_path: Path, labels, message) -> None:
    write(tmp_path / "mine", test=table(labels, columns(image=IMAGE, label=WORD)))
    with pytest.raises(UserError, match=message):
        given(tmp_path / "mine")


# Folders that are none of a dataset.


def test_folders_without_a_dataset_are_refused(tmp_path: Path, mine: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/test.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "images/a/1.png").write_bytes(picture(0))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/test.txt").write_text("a\nb\n")
    assert "empty cannot be read as a dataset" in refusal(tmp_path / "empty")
    assert "broken cannot be read as a dataset: ArrowInvalid" in refusal(tmp_path / "broken")
    assert f"dataset=folder dataset.path={tmp_path}/images" in refusal(tmp_path / "images")
    assert "the library reads it as 'text'" in refusal(tmp_path / "text")
    assert "/nowhere is missing" in refusal("/nowhere")
    file = mine / "test-00000-of-00001.parquet"
    assert "is a file: set dataset.path to its folder" in refusal(file)
    assert "dataset.revision=v1 is of a dataset on the Hub" in refusal(mine, revision="v1")
    assert "has no configuration 'x'. It has none" in refusal(mine, config="x")


def test_without_the_extra_one_message_says_what_to_install(mine, monkeypatch) -> None:
    monkeypatch.setattr(hub_tables, "find_spec", lambda name: None)
    assert refusal(mine) == ('dataset=hub needs the package datasets: pip install "calipers[hub]"')


CARD = """---
configs:
- config_name: small
  data_files: [{split: train, path: small/train-*}, {split: test, path: small/test-*}]
- config_name: large
  data_files: [{split: test, path: large/test-*}]
---
"""


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Write a folder with two configurations."""
    folder = tmp_path / "several"
    write(folder / "small", train=table([0, 1] * 5), test=table([0, 1, 1]))
    write(folder / "large", test=table([2, 2, 1, 0, 1]))
    (folder / "README.md").write_text(CARD)
    return folder


def test_a_configuration_is_chosen(several: Path) -> None:
    assert "by dataset.config=... There are 'small', 'large'" in refusal(several)
    assert "no configuration 'huge'. There are 'small', 'large'" in refusal(several, config="huge")
    assert counts(given(several, config="small")) == [8, 2, 3]
    assert counts(given(several, config="large")) == [0, 0, 5]
    (several / "README.md").write_text(CARD.replace("large\n", "large\n  default: true\n", 1))
    assert counts(given(several)) == [0, 0, 5]


def test_what_the_hub_converted_has_its_configurations_apart(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for name, rows in (("fine", 3), ("coarse", 5)):
        (folder / name / "test").mkdir(parents=True)
        for number in range(2):
            file = folder / f"{name}/test/{number:04d}.parquet"
            table(([0, 1, 2] * 2)[:rows], first=10 * number).to_parquet(str(file))
    assert "by dataset.config=... There are " in refusal(folder)
    found = given(folder, config="coarse")
    assert counts(found) == [0, 0, 10]
    with Image.open(io.BytesIO(picture(10))) as image:
        assert np.array_equal(found.load(found.splits["test"][5]), image)


def test_what_a_killed_conversion_left_is_not_read_and_damage_is_noticed(mine: Path) -> None:
    given(mine)
    (target,) = (Path(datasets.config.HF_DATASETS_CACHE) / "calipers/folders").glob("?" * 32)
    stray = next(target.glob("*-test.arrow"))
    unfinished = target.with_name(f"{target.name}.incomplete")
    target.rename(unfinished)
    stray = unfinished / stray.name
    stray.rename(unfinished / stray.name.replace(".arrow", "-00000-00001-of-NNNNN.arrow"))
    assert counts(given(mine)) == [6, 3, 4]
    next(target.glob("*-test.arrow")).write_bytes(b"damaged")
    assert f"Remove {target}, and it is made again" in refusal(mine)
    next(target.glob("*-test.arrow")).unlink()
    assert f"Remove {target}, and it is made again" in refusal(mine)


def test_a_file_of_no_split_is_named(mine: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(mine, others=table([0, 1]))
    assert counts(given(mine)) == [6, 3, 4]
    assert "left out, as their names name no split: 'others-00000-of-00001.parquet'" in caplog.text


def test_a_missing_file_of_several_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in (0, 2):
        table([0, 1]).to_parquet(str(folder / f"test-{number:05d}-of-00003.parquet"))
    message = "'test': of 3 files 1 are missing, the first one test-00001-of-00003"
    assert message in refusal(folder)


@pytest.mark.parametrize("path", ["../other/test-*", "/etc/*", "https://example.org/test.parquet"])
def test_a_card_that_names_files_elsewhere_is_refused(several: Path, path: str) -> None:
    (several / "README.md").write_text(CARD.replace("large/test-*", path))
    assert "names files elsewhere" in refusal(several, config="large")


# The Hub.


class Hub(ThreadingHTTPServer):
    """Serves the files below `folder` as those of `someone/pets`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.commit = COMMIT
        self.error = ""  # of every response, as the Hub names it
        self.cut: list[int] = []  # for each of the next Parquet files, the bytes that are sent
        self.seen: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self) -> Mapping[str, bytes]:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.seen.append(f"{self.command} {path}")
        assert "hf_secret" not in path
        files = self.server.files()
        is_api = path.startswith("/api/")
        repository, _, rest = (
            path.removeprefix("/api")
            .removeprefix("/datasets/")
            .partition(
                "/revision/"
                if "/revision/" in path
                else "/tree/"
                if "/tree/" in path
                else "/resolve/"
            )
        )
        revision, _, name = rest.partition("/")
        error = self.server.error
        if not error and repository != "someone/pets":
            error = "RepoNotFound"
        if not error and revision not in ("main", self.server.commit):
            error = "RevisionNotFound"
        if not error and not is_api and name not in files:
            error = "EntryNotFound"
        if error:
            code = {"GatedRepo": 403, "RepoNotFound": 401}.get(error, 404)
            self.answer(code, b"", {"X-Error-Code": error, "X-Error-Message": "no"})
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": digest(content)}
                for name, content in files.items()
            ]
            self.answer(200, json.dumps(tree).encode())
        elif is_api:
            about = {"id": repository, "sha": self.server.commit}
            about |= {"siblings": [{"rfilename": name} for name in files]}
            self.answer(200, json.dumps(about).encode())
        else:
            offset = int((self.headers["Range"] or "bytes=0-")[6:].partition("-")[0])
            body = files[name][offset:]
            headers = {"ETag": f'"{digest(files[name])}"', "X-Repo-Commit": self.server.commit}
            sent = self.server.cut.pop(0) if self.server.cut and self.command == "GET" else None
            self.answer(206 if offset else 200, body, headers, sent)

    def answer(
        self, code: int, body: bytes, headers: Mapping[str, str] = {}, sent: int | None = None
    ) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])

    def log_message(self, *_: object) -> None:
        pass


def digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def server(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecretsecret")
    mine.rename(tmp_path / "published")
    with Hub(tmp_path / "published") as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = f"{running.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_dataset_is_fetched_once_and_is_that_of_its_folder(
    server: Hub, capfd: pytest.CaptureFixture
) -> None:
    found, own = given("someone/pets"), given(server.folder)
    assert (found.root, found.notes, own.notes) == ("someone/pets", [NOTE], [])
    assert found.class_names == own.class_names
    for split, items in own.splits.items():
        assert list(found.splits[split]) == list(items)
        assert all(np.array_equal(found.load(item), own.load(item)) for item in items)
    fetched = [path for path in server.seen if path.startswith("GET /datasets")]
    assert len(fetched) == len(set(fetched)) == 3
    server.seen.clear()
    again = given("someone/pets")
    assert server.seen == []
    test = found.splits["test"]
    assert again.fingerprint(test) == found.fingerprint(test) != own.fingerprint(test)
    assert "".join(capfd.readouterr()) == ""


def test_another_commit_is_another_dataset_and_comes_by_its_revision(server: Hub) -> None:
    first = given("someone/pets")
    server.commit = OLDER
    write(server.folder, test=table([0, 1], first=300))
    assert given("someone/pets").notes == [NOTE]  # in the cache
    other = given("someone/pets", revision=OLDER)
    assert (other.notes, counts(other)) == ([f"commit {OLDER} of the Hub"], [6, 3, 2])
    train = first.splits["train"]
    assert other.fingerprint(train) != first.fingerprint(train)
    assert counts(given("someone/pets", revision=COMMIT)) == [6, 3, 4]
    assert "no revision v9: correct dataset.revision" in refusal("someone/pets", revision="v9")


def test_only_the_files_of_the_configuration_are_fetched(server: Hub, several: Path) -> None:
    server.folder = several
    assert "dataset.config=... There are 'small', 'large'" in refusal("someone/pets")
    assert counts(given("someone/pets", config="large")) == [0, 0, 5]
    fetched = [path for path in server.seen if path.endswith("parquet") and "GET" in path]
    assert len(fetched) == 1
    assert fetched[0].endswith("large/test-00000-of-00001.parquet")


def test_a_download_goes_on_where_it_was_cut(server: Hub, monkeypatch) -> None:
    server.cut = [1000]
    assert counts(given("someone/pets")) == [6, 3, 4]


def test_images_in_folders_of_the_hub_are_read(server: Hub, tmp_path: Path) -> None:
    server.folder = tmp_path / "images"
    for number, name in enumerate(("train/a/1", "train/a/2", "train/b/1", "test/a/1", "test/b/1")):
        path = server.folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    found = given("someone/pets")
    assert (found.class_names, counts(found)) == (["a", "b"], [2, 1, 2])
    assert found.load(found.splits["test"][1]).size == (9, 8)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepo", r"accepted its terms: .* `hf auth login`"),
        ("RepoNotFound", r"there is no .*/datasets/someone/pets, or it is not public"),
        ("Disabled", r"cannot fetch the dataset someone/pets\. .*src\.prepare"),
    ],
)
def test_what_cannot_be_fetched_is_refused(server: Hub, error: str, message: str) -> None:
    server.error = error
    with pytest.raises(UserError, match=message) as raised:
        given("someone/pets")
    assert "hf_secret" not in str(raised.value)


def test_other_files_than_images_are_refused_before_they_are_fetched(server: Hub) -> None:
    for file in server.folder.iterdir():
        file.unlink()
    (server.folder / "train-0000.tar").write_bytes(b"x")
    assert "its files end in .tar. Shards (.tar) are read by dataset=webdataset" in refusal(
        "someone/pets"
    )
    assert not any("resolve" in path for path in server.seen)


@pytest.mark.parametrize("name", ["a/b/c", "someone/pets.parquet", "~/pets", "../pets", "-x/pets"])
def test_a_malformed_name_is_refused_without_a_request(server: Hub, name: str) -> None:
    assert f"the folder {name} is missing, and no dataset" in refusal(name)
    assert server.seen == []


def test_without_a_network_one_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:mine@127.0.0.1:9")
    caplog.set_level("INFO")
    message = refusal("someone/pets")
    assert "mine@" not in message + caplog.text
    assert message.startswith("cannot fetch the dataset someone/pets. Where there is a network,")
    assert "hf download --repo-type dataset someone/pets --local-dir FOLDER" in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "cannot fetch the dataset someone/pets" in refusal("someone/pets")
    assert "".join(capfd.readouterr()) == ""


def test_what_is_cached_needs_no_network(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = given("someone/pets")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert given("someone/pets").identity == expected.identity
