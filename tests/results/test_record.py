import json
from dataclasses import asdict, replace

import pytest

from src.errors import UserError
from src.results.record import Result
from src.results.table import show

RESULT = Result(
    dataset="digits", adapted_on="digits", backbone="tiny", precision="32-true", method="calip",
    shots=0, seed=0,
    selection="val", accuracy=81.5, mean_class_accuracy=80.25, ece=0.1, validation_accuracy=82.0,
    hyperparameters={"beta2": 1.0}, selected_on_test=False, n_test=720, skipped_images=0,
    n_classes=10, trainable_parameters=0, epochs=0, timings_s={"test": 0.1}, threads=1,
    peak_rss_mb=500.0, published=None, config_hash="0", versions={}, git_revision=None,
    started_at="2026-01-01T00:00:00+00:00",
    command="python -m src.run",
)  # fmt: skip


def test_a_result_survives_its_file(tmp_path):
    RESULT.write(tmp_path)
    assert Result.read(tmp_path / "result.json") == RESULT
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"dataset": "digits"}'])
def test_a_file_that_is_no_result_is_named(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json is not the result of a run"):
        Result.read(tmp_path / "result.json")


def test_a_failed_write_leaves_the_old_result(tmp_path):
    RESULT.write(tmp_path)
    with pytest.raises(TypeError):
        replace(RESULT, hyperparameters={"beta2": object()}).write(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == asdict(RESULT)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_table_marks_what_was_chosen_on_test_and_leaves_empty_columns_out(capsys):
    show([RESULT, replace(RESULT, method="zero_shot", validation_accuracy=None)], "title")
    honest = capsys.readouterr().out
    assert "81.50 " in honest
    assert "†" not in honest
    assert "validation" in honest
    assert "published" not in honest
    show([replace(RESULT, selected_on_test=True, selection="test", published=80.0)], "title")
    marked = capsys.readouterr().out
    assert "81.50†" in marked
    assert "not comparable" in marked
    assert "published" in marked
