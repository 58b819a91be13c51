"""`dataset=hub` through the command lines."""

import csv
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests import replica
from tests.cli import below, finish, refusal, refused, result, run, start
from tests.data.test_hub import COMMIT, Hub, datasets, mine, picture, server

__all__ = ["mine", "server"]  # fixtures

CLASSES = "abc"
FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
)
TINY = (*replica.TINY, "logger=none", "dataset.name=mine")

WHOLE = ("+dataset.min_scale=1", "+dataset.horizontal_flip=false")
"""Of square images, this keeps all: random crops depend on what an image is called."""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Write four images of noise for each class and split, as a folder and as tables of it."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    tables = {}
    for split in ("train", "val", "test"):
        cells, labels = [], []
        for label, name in enumerate(CLASSES):
            (root / "folder" / split / name).mkdir(parents=True)
            for number in range(4):
                file = root / f"folder/{split}/{name}/{number}.jpg"
                pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
                cells.append({"bytes": file.read_bytes(), "path": file.name})
                labels.append(label)
        content = {"image": cells, "label": labels}
        tables[split] = datasets.Dataset.from_dict(content, features=FEATURES)
        (root / "parquet/data").mkdir(parents=True, exist_ok=True)
        tables[split].to_parquet(str(root / f"parquet/data/{split}-00000-of-00001.parquet"))
    datasets.DatasetDict(tables).save_to_disk(str(root / "saved"))
    return root


def command(module: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run(
        module, *arguments, HF_DATASETS_CACHE=f"{folder}/cache", HF_HUB_OFFLINE="1",
        COLUMNS="120",
    )  # fmt: skip


def stored(folder: Path) -> dict[str, dict]:
    """Read all features of the store, by their part of the dataset and the names of the arrays."""
    found = {}
    for path in (folder / "features/mine").glob("*/*.safetensors"):
        arrays = load_file(path)
        found[" ".join([path.parent.name.rsplit("-", 1)[0], path.name, *sorted(arrays)])] = arrays
    return found


@pytest.mark.parametrize(
    ("methods", "layouts"),
    [
        (["tip_adapter"], ["folder", "parquet"]),
        pytest.param(
            ["zero_shot", "calip", "tip_adapter"], ["folder", "parquet", "saved"],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_the_same_images_give_the_same_features_and_accuracy(
    tmp_path, images, methods, layouts
) -> None:
    features, metrics = {}, {}
    for layout in layouts:
        folder, dataset = tmp_path / layout, "folder" if layout == "folder" else "hub"
        for method in methods:
            done = command(
                "src.run", folder, *below(folder), f"method={method}", "shots=2",
                f"dataset={dataset}", f"dataset.path={images}/{layout}", *TINY, *WHOLE,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            metrics[layout, method] = result(folder)["metrics"]
        features[layout] = stored(folder)
    assert len(features["folder"]) >= 3 + ("calip" in methods)
    for layout in layouts:
        assert features[layout].keys() == features["folder"].keys()
        for name, arrays in features["folder"].items():
            found = features[layout][name]
            assert all(found[key].equal(values) for key, values in arrays.items()), name
        for method in methods:
            assert metrics[layout, method] == metrics["folder", method]

    # The classifier answers for files as it did for rows.
    output = tmp_path / "parquet/output"
    done = command(
        "src.predict", tmp_path, f"model={output}", f"images={images}/folder/test",
        f"output={tmp_path}/p.csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [row["class"] for row in csv.DictReader((tmp_path / "p.csv").open())]
    outcome = load_file(output / "outcome.safetensors")
    assert answers == [CLASSES[number] for number in outcome["prediction"]]


def test_prepare_reads_every_row(tmp_path, images) -> None:
    arguments = ["dataset=hub", f"dataset.path={images}/parquet"]
    done = command("src.prepare", tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    done = command("src.prepare", tmp_path, *arguments, "--check")
    assert done.returncode == 0, done.stderr
    assert "nothing is wrong" in done.stderr
    assert done.stdout == ""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/test.parquet").write_bytes(b"PAR1 and no more")
    done = command("src.prepare", tmp_path, "dataset=hub", f"dataset.path={tmp_path}/broken")
    assert "broken cannot be read as a dataset: ArrowInvalid" in refused(done)
    assert done.stderr.count("\n") == 1


def write(folder: Path, cells: list, labels: list, **more: list) -> Path:
    """Write a test split around the library, which would not write what is wrong with it."""
    table = datasets.Dataset.from_dict({"image": [], "label": []}, features=FEATURES).data.table
    types = [table.schema.field("image").type, pa.int64()]
    columns = {"image": pa.array(cells, types[0]), "label": pa.array(labels, types[1])}
    columns |= {name: pa.array(values, types[0]) for name, values in more.items()}
    folder.mkdir()
    kept = None if more or not labels else table.schema.metadata
    if not labels:
        del columns["label"]
    pq.write_table(
        pa.table(columns).replace_schema_metadata(kept), folder / "test-00000-of-00001.parquet"
    )
    return folder


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("null image", ":test:1: there is no image in this row"),
        ("undecodable", ":test:1: not an image"),
        ("hidden", "'test', row 0: the label is -1"),
        ("range", "'test', row 1: the label is 3, and the 3 classes are 0 to 2"),
        ("no label", "has no column that can hold classes: its columns are 'image'"),
        ("two images", "choose it by dataset.image=... Among 'image', 'mask'"),
    ],
)
def test_what_is_wrong_with_a_table_ends_in_one_message(
    tmp_path, monkeypatch, fault, message
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", f"{tmp_path}/cache")
    good = {"bytes": picture(0), "path": None}
    bad = {"null image": None, "undecodable": {"bytes": b"<html>", "path": None}}.get(fault, good)
    labels = {"hidden": [-1, -1], "range": [0, 3], "no label": []}.get(fault, [0, 1])
    more = {"mask": [good, good]} if fault == "two images" else {}
    folder = write(tmp_path / "mine", [good, bad], labels, **more)
    arguments = ("method=zero_shot", "dataset=hub", f"dataset.path={folder}", *TINY)
    assert message in refusal(tmp_path, *arguments)
    if bad is None:
        done = command("src.prepare", tmp_path, "dataset=hub", f"dataset.path={folder}", "--check")
        assert done.returncode == 2
        assert done.stdout.startswith(f"{folder}:test:1\t")
        done = command("src.run", tmp_path, *below(tmp_path), *arguments, "on_bad_image=skip")
        assert done.returncode == 0, done.stderr
        assert (result(tmp_path)["n_test"], result(tmp_path)["skipped_images"]) == (1, 1)


def test_without_a_path_the_message_names_it(tmp_path) -> None:
    message = refusal(tmp_path, "dataset=hub", *TINY)
    assert "which dataset? Give `dataset.path=owner/name`" in message


@pytest.mark.slow
def test_a_command_fetches_a_dataset_of_the_hub(server: Hub, tmp_path: Path) -> None:
    environment = {
        "HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"),
        "no_proxy": "127.0.0.1",
    }  # fmt: skip
    (tmp_path / "names.txt").write_text("ant a\nbee b\ncow c\n")
    dataset = [
        "dataset=hub", "dataset.path=someone/pets", f"dataset.class_names={tmp_path}/names.txt"
    ]  # fmt: skip
    two = [start("src.prepare", *dataset, **environment) for _ in range(2)]
    for done in map(finish, two):  # at once
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    server.seen.clear()
    done = finish(
        start("src.run", *below(tmp_path), *dataset, "method=zero_shot", *TINY, **environment)
    )
    assert done.returncode == 0, done.stderr
    assert server.seen == []
    assert f"someone/pets: commit {COMMIT} of the Hub" in done.stdout
    assert result(tmp_path)["n_test"] == 4
