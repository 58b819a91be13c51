"""`on_bad_image=stop|skip` through the command line."""

import pytest

from src.config import compose
from src.errors import UserError
from src.validation import validate
from tests import replica
from tests.cli import calipers, refused, result

ARGUMENTS = (
    "method=tip_adapter", "method.support.crops=2", "dataset=dtd", "shots=6", "logger=none",
    "selection=fixed", *replica.TINY,
)  # fmt: skip


def test_a_run_goes_on_without_damaged_images_or_stops_even_on_stored_features(tmp_path):
    root = replica.dtd(tmp_path / "data")
    in_train, in_test = root / "images/a/a_0003.jpg", root / "images/b/b_0002.jpg"
    for path in (in_train, in_test):
        path.write_bytes(path.read_bytes()[:-300])
    done = calipers(tmp_path, *ARGUMENTS, "on_bad_image=skip")
    assert done.returncode == 0, done.stderr
    assert "dtd/support: 1 of 18 images cannot be decoded: left out" in done.stdout
    assert "dtd/test: 1 of 18 images cannot be decoded: left out" in done.stdout
    found = result(tmp_path)
    assert (found["skipped_images"], found["n_test"]) == (2, 17)
    # Chance is 33 %; a higher accuracy shows that the remaining rows still match their labels.
    assert found["accuracy"] >= 75
    lines = (tmp_path / "output/skipped_images.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(in_train), str(in_test)]
    assert all("image file is truncated" in line for line in lines)

    message = refused(calipers(tmp_path, *ARGUMENTS))
    assert f"cannot decode the image {in_train}: image file is truncated" in message
    assert "on_bad_image=skip" in message

    replica.dtd(tmp_path / "data")  # writes intact images
    done = calipers(tmp_path, *ARGUMENTS, "on_bad_image=skip")
    assert done.returncode == 0, done.stderr
    assert (result(tmp_path)["skipped_images"], result(tmp_path)["n_test"]) == (0, 18)
    assert not (tmp_path / "output/skipped_images.txt").exists()


def test_any_other_answer_is_refused():
    with pytest.raises(UserError, match="on_bad_image=ignore is neither stop nor skip"):
        validate(compose(["on_bad_image=ignore", "paths.output=."]))
