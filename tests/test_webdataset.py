"""`dataset=webdataset` and `dataset=clip_benchmark`, by whole command lines."""

import csv
import io
import json
import tarfile

import pytest
from safetensors.torch import load_file

import src.resolvers  # noqa: F401 (registers them)
from tests.cli import below, calipers, finish, refused, result, run, start
from tests.data.webdataset.making import serving
from tests.replica.photographs import photograph

LETTERS = "abc"
TEMPLATES = 'dataset.templates=["a photo of the letter {}."]'
TINY = ("backbone=tiny", "logger=none", "save_predictions=true")


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Write the same photographs as files and as shards of three rows."""
    root = tmp_path_factory.mktemp("letters")
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        paths = []
        for label, letter in enumerate(LETTERS):
            for number in range(count):
                path = root / "folder" / split / letter / f"{number}.png"
                photograph(path, letter, seed=len(paths) + 100 * ord(split[1]), size=48)
                paths.append((path, label))
        _pack(root / "shards" / split, paths)
    (root / "shards/classnames.txt").write_text("".join(f"{one}\n" for one in LETTERS))
    return root


def _pack(folder, paths, at_once=4):
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(paths), at_once):
        with tarfile.open(folder / f"{first // at_once}.tar", "w") as archive:
            for path, label in paths[first : first + at_once]:
                key = f"{folder.name}-{label}-{path.stem}"
                archive.add(path, f"{key}.png")
                entry = tarfile.TarInfo(f"{key}.cls")
                content = str(label).encode()
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    (folder / "nshards.txt").write_text(f"{-(-len(paths) // at_once)}\n")


def logits(folder):
    return load_file(folder / "output/predictions.safetensors")["logits"]


@pytest.mark.parametrize(
    "method",
    [
        ["zero_shot"],
        pytest.param(["calip"], marks=pytest.mark.slow),
        # Random crops are drawn by an image's name, which is another one here.
        ["tip_adapter", "shots=2", "method.support.crops=null"],
    ],
    ids=lambda method: method[0],
)
def test_shards_give_what_the_same_files_give(tmp_path, letters, method):
    arguments = (f"method={method[0]}", *method[1:], *TINY, TEMPLATES)
    found = {}
    for dataset in ("folder", "webdataset"):
        path = letters / {"folder": "folder", "webdataset": "shards"}[dataset]
        done = calipers(
            tmp_path / dataset, f"dataset={dataset}", f"dataset.path={path}", *arguments
        )
        assert done.returncode == 0, done.stderr
        found[dataset] = (result(tmp_path / dataset)["metrics"], logits(tmp_path / dataset))
    assert found["folder"][0] == found["webdataset"][0]
    assert found["folder"][1].equal(found["webdataset"][1])
    features = {
        dataset: sorted(
            (entry.name.rpartition("-")[0], load_file(shard)["global"])
            for entry in (tmp_path / dataset / f"features/{dataset}").glob("*/")
            for shard in entry.glob("*.safetensors")
            if not entry.name.startswith("text")
        )
        for dataset in found
    }
    assert features["folder"]
    for (name, ours), (other, theirs) in zip(*features.values(), strict=True):
        assert name == other and ours.equal(theirs)


def test_a_classifier_made_of_shards_answers_for_files(tmp_path, letters):
    done = calipers(
        tmp_path, "dataset=webdataset", f"dataset.path={letters}/shards", "method=zero_shot",
        *TINY, TEMPLATES,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    images = letters / "folder/test/b"
    done = run(
        "src.predict", f"model={tmp_path}/output", f"images={images}", f"output={tmp_path}/p.csv"
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open(newline="") as file:
        answers = [row["class"] for row in csv.DictReader(file)]
    assert answers == [LETTERS[one] for one in logits(tmp_path)[3:6].argmax(dim=1)]


def test_prepare_indexes_shards_and_check_names_a_damaged_image(tmp_path, letters):
    shards = tmp_path / "shards"
    _pack(shards / "test", [(letters / "folder/test/a/0.png", 0), (_broken(tmp_path), 1)])
    settings = ("dataset=webdataset", f"dataset.path={shards}", f"paths.features={tmp_path}/f")
    done = run("src.prepare", *settings)
    assert done.returncode == 0, done.stderr
    assert len([*(tmp_path / "f/.webdataset").glob("*.safetensors")]) == 1
    done = run("src.prepare", *settings, "--check")
    assert "1 damaged of 2 images" in refused(done)
    assert done.stdout.startswith(f"{shards}/test/0.tar: test-1-broken.png\t")


def _broken(folder):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder / "broken.png"


def test_damaged_images_are_skipped_by_name(tmp_path, letters):
    _pack(
        tmp_path / "shards/test",
        [(letters / "folder/test/a/0.png", 0), (_broken(tmp_path), 1),
         (letters / "folder/test/b/0.png", 1)],
    )  # fmt: skip
    arguments = ("dataset=webdataset", f"dataset.path={tmp_path}/shards", "method=zero_shot",
                 "on_bad_image=skip", *TINY, TEMPLATES)  # fmt: skip
    done = calipers(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert (result(tmp_path)["n_test"], result(tmp_path)["skipped_images"]) == (2, 1)
    listed = (tmp_path / "output/skipped_images.txt").read_text()
    assert listed.startswith(f"{tmp_path}/shards/test/0.tar: test-1-broken.png\t")


def test_remote_shards_give_what_local_ones_give(tmp_path, letters):
    with serving() as server:
        for number in range(3):
            path = letters / f"shards/test/{number}.tar"
            server.files[f"/test/{number}.tar"] = path.read_bytes()
        arguments = ("dataset=webdataset", "method=zero_shot", *TINY, TEMPLATES,
                     f"dataset.class_names={letters}/shards/classnames.txt")  # fmt: skip
        remote = f'"{server.url("test/{0..2}.tar", user="me:hush@")}?token=hush"'
        done = run("src.run", *below(tmp_path / "remote"), *arguments,
                   f"dataset.split.test={remote}", no_proxy="127.0.0.1")  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = calipers(
        tmp_path / "local", *arguments, f'dataset.split.test="{letters}/shards/test/{{0..2}}.tar"'
    )
    assert done.returncode == 0, done.stderr
    assert logits(tmp_path / "remote").equal(logits(tmp_path / "local"))
    written = [path for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    assert not [path for path in written if b"hush" in path.read_bytes()]


@pytest.fixture
def task(tmp_path, letters):
    """Lay the shards out as CLIP_benchmark's, with training images and test images only."""
    root = tmp_path / "data/clip_benchmark/vtab/letters"
    root.mkdir(parents=True)
    for split in ("train", "test"):
        (root / split).symlink_to(letters / "shards" / split)
    (root / "classnames.txt").write_text("".join(f"{one}\n" for one in LETTERS))
    (root / "zeroshot_classification_templates.txt").write_text(
        "a photo of the letter {c}.\nthe letter {c}\n"
    )
    return root


CLIP_BENCHMARK = ("dataset=clip_benchmark", "dataset.task=vtab/letters")


def test_a_task_of_clip_benchmark_is_one_name(tmp_path, letters, task):
    done = calipers(tmp_path, *CLIP_BENCHMARK, "method=tip_adapter", "shots=1", *TINY)
    assert done.returncode == 0, done.stderr
    found = result(tmp_path)
    assert (found["dataset"], found["n_test"], found["n_classes"]) == ("vtab-letters", 9, 3)
    assert found["dataset_notes"] == [
        "val is 20% of each class of train, drawn with dataset.split_seed=0"
    ]
    both = 'dataset.templates=["a photo of the letter {}.","the letter {}"]'
    done = calipers(
        tmp_path / "same", "dataset=webdataset", f"dataset.path={task}", both,
        "method=tip_adapter", "shots=1", *TINY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert logits(tmp_path / "same").equal(logits(tmp_path))
    done = calipers(tmp_path, *CLIP_BENCHMARK, "method=zero_shot", TEMPLATES, *TINY)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "output/result.json").read_text())["zero_shot"] is not None


def test_a_task_without_training_images_is_refused_where_they_are_needed(tmp_path, task):
    (task / "train").unlink()
    done = calipers(tmp_path, *CLIP_BENCHMARK, "method=zero_shot", *TINY)
    assert done.returncode == 0, done.stderr
    assert "vtab-letters has no train images" in refused(
        calipers(tmp_path, *CLIP_BENCHMARK, "method=tip_adapter", *TINY)
    )


def test_a_task_that_is_not_there_says_how_it_is_fetched(tmp_path):
    assert "src.prepare dataset=clip_benchmark dataset.task=vtab/letters" in refused(
        calipers(tmp_path, *CLIP_BENCHMARK, "method=zero_shot", *TINY)
    )
    done = finish(
        start(
            "src.prepare", *CLIP_BENCHMARK, f"paths.data={tmp_path}",
            HF_ENDPOINT="http://127.0.0.1:9",
        )
    )  # fmt: skip
    assert "cannot fetch http://127.0.0.1:9/datasets/clip-benchmark/wds_vtab-letters" in refused(
        done
    )
    assert not [*tmp_path.glob("clip_benchmark/vtab/letters")]


@pytest.mark.parametrize("command", ["src.run", "src.prepare"])
def test_a_task_must_be_named(tmp_path, command):
    done = run(command, *below(tmp_path)[2:], "dataset=clip_benchmark")
    assert "which dataset of CLIP_benchmark? Give dataset.task=" in refused(done)
