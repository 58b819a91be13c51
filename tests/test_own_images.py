"""Command lines on a user's own images: deeper folders and lists of files."""

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from tests.cli import calipers, refused, result, run

GROUPS = {"a": "vowels", "b": "consonants", "c": "consonants"}


@pytest.fixture
def letters(tmp_path):
    """Write six images of noise for each of three classes, as `letters/<group>/<class>/*.ppm`."""
    generator = np.random.default_rng(0)
    for name, group in GROUPS.items():
        (tmp_path / "letters" / group / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"letters/{group}/{name}/{number}.ppm")
    return tmp_path / "letters"


def test_deeper_folders_and_their_parquet_list_give_the_same_result(tmp_path, letters):
    paths = sorted(path.relative_to(letters) for path in letters.rglob("*.ppm"))
    table = {"path": list(map(str, paths)), "label": [path.parts[1] for path in paths]}
    parquet.write_table(pyarrow.table(table), tmp_path / "list.parquet")
    found = []
    for setting in ("depth=2", f"csv={tmp_path}/list.parquet"):
        done = calipers(
            tmp_path, "method=zero_shot", "dataset=folder", f"dataset.path={letters}",
            f"dataset.{setting}", "backbone=tiny", "logger=none",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(result(tmp_path))
    assert (found[0]["n_test"], found[0]["n_classes"]) == (6, 3)
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert "extracting" not in done.stdout, "the images are the same, so are the features"


def test_folders_that_lie_deeper_say_so(letters):
    done = run("src.prepare", "--check", "dataset=folder", f"dataset.path={letters}")
    assert "say by dataset.depth how deep the classes lie" in refused(done)
    (letters / "vowels/a/7.heic").touch()
    done = run(
        "src.prepare", "--check", "dataset=folder", f"dataset.path={letters}", "dataset.depth=2"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("1 .heic") == 1
