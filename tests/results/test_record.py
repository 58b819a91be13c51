import json
from dataclasses import replace

import pytest

from src.errors import UserError
from src.results.metrics import METRICS, OF_SETS
from src.results.record import VERSION, Result
from tests.results import VERSION_1

RESULT = Result(
    dataset="digits", adapted_on="digits", backbone="tiny", precision="32-true", method="calip",
    shots=0, seed=0, selection="val",
    metrics={
        "accuracy": 81.5, "mean_class_accuracy": 80.25, "macro_f1": 79.0, "top5_accuracy": 99.0,
        "ece": 0.1, "nll": 0.7, "brier": 0.3,
    },
    validation_accuracy=82.0, hyperparameters={"beta2": 1.0}, selected_on_test=False, n_test=720,
    skipped_images=0, n_classes=10, trainable_parameters=0, epochs=0, timings_s={"test": 0.1},
    threads=1, peak_rss_mb=500.0, published=None, config_hash="0", versions={}, git_revision=None,
    started_at="2026-01-01T00:00:00+00:00", command="python -m src.run",
    architecture="local-dir:tiny", weights="0f", prompts="a0", settings_from="defaults",
)  # fmt: skip


def made_up(accuracy=81.5, **changes):
    """Invent the result of a run."""
    return replace(RESULT, metrics={**RESULT.metrics, "accuracy": accuracy}, **changes)


def test_a_result_survives_its_file(tmp_path):
    RESULT.write(tmp_path)
    assert Result.read(tmp_path / "result.json") == RESULT
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_what_was_calibrated_survives_its_file(tmp_path):
    found = {"coverage": 91.0, "mean_set_size": 1.5, "class_coverage_gap": 7.0}
    calibrated = replace(
        RESULT,
        metrics={**RESULT.metrics, **found},
        calibration={"temperature": 1.5, "selection": "val", "images": 9},
        conformal={"score": "lac", "coverage": 0.9, "threshold": None, "images": 8},
    )
    assert list(calibrated.metrics) == [metric.name for metric in (*METRICS, *OF_SETS)]
    calibrated.write(tmp_path)
    assert Result.read(tmp_path / "result.json") == calibrated


@pytest.mark.parametrize(
    ("balance", "text"),
    [
        ({}, ""),
        ({"classes": [10, 10], "images": [72, 72]}, "72"),
        ({"classes": [10, 10], "images": [4, 30]}, "4 to 30"),
        ({"classes": [3, 5], "images": [1, 30]}, "1 to 30, of 3 to 5 classes"),
        ({"classes": [3, 3], "images": [9, 9]}, "9, of 3 classes"),
    ],
)
def test_the_balance_of_classes_survives_the_file_and_is_told(tmp_path, balance, text):
    made = replace(RESULT, class_balance=balance, n_classes=10, passes=7)
    made.write(tmp_path)
    assert Result.read(tmp_path / "result.json") == made
    assert made.balance == text


def test_every_metric_of_the_list_can_be_recorded():
    assert list(RESULT.metrics) == [metric.name for metric in METRICS]


def test_three_metrics_stand_at_the_top_of_the_file_as_well(tmp_path):
    RESULT.write(tmp_path)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["metrics"] == RESULT.metrics
    at_the_top = (content["accuracy"], content["mean_class_accuracy"], content["ece"])
    assert at_the_top == (81.5, 80.25, 0.1)
    assert content["version"] == VERSION


def test_a_record_of_version_1_is_read():
    path = VERSION_1 / "digits-tiny-clip_adapter-2-1-d5111ebfc641b210/result.json"
    content = json.loads(path.read_text())
    result = Result.read(path)
    assert result.version == 1
    assert result.metrics == {
        name: content[name] for name in ("accuracy", "mean_class_accuracy", "ece")
    }
    assert (result.weights, result.settings_from, result.saw_test_images) == (None, "", False)
    assert (result.calibration, result.conformal) == ({}, {})
    assert result.precision == "32-true"
    assert result.hyperparameters == {"residual_ratio": 0.2}


def test_a_record_of_a_later_version_is_refused_and_what_it_adds_is_not_in_the_way(tmp_path):
    RESULT.write(tmp_path)
    path = tmp_path / "result.json"
    content = json.loads(path.read_text()) | {"added_later": [1]}
    path.write_text(json.dumps(content))
    assert Result.read(path) == RESULT
    path.write_text(json.dumps(content | {"version": VERSION + 1}))
    with pytest.raises(
        UserError, match=rf"newer version of Calipers \(record version {VERSION + 1}"
    ):
        Result.read(path)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"dataset": "digits"}', '{"version": "2"}'])
def test_a_file_that_is_no_result_is_named(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json is not the result of a run"):
        Result.read(tmp_path / "result.json")


def test_a_failed_write_leaves_the_old_result(tmp_path):
    RESULT.write(tmp_path)
    with pytest.raises(TypeError):
        replace(RESULT, hyperparameters={"beta2": object()}).write(tmp_path)
    assert Result.read(tmp_path / "result.json") == RESULT
    assert len(list(tmp_path.iterdir())) == 1


def test_a_published_figure_of_an_earlier_version_gets_its_sources(tmp_path):
    content = json.loads(
        (VERSION_1 / "digits-tiny-clip_adapter-2-1-d5111ebfc641b210/result.json").read_text()
    )
    about = {"dataset": "caltech101", "method": "calip", "shots": 0, "backbone": "rn50"}
    (tmp_path / "result.json").write_text(json.dumps(content | about | {"published": 87.71}))
    assert Result.read(tmp_path / "result.json").published_by_source == {"a": 87.71}
