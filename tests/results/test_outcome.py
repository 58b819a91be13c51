import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from src.errors import UserError
from src.results.outcome import Outcome


def random_outcome(seed, n=60, classes=4):
    generator = np.random.default_rng(seed)
    return Outcome(
        class_names=[f"class {number}" for number in range(classes)],
        label=generator.integers(classes - 1, size=n),  # the last class has no image
        prediction=generator.integers(classes, size=n),
        confidence=generator.uniform(0.2, 1, size=n).astype(np.float32),
    )


def test_an_outcome_survives_its_file(tmp_path):
    outcome = random_outcome(0)._replace(
        search=np.ones((2, 3), np.float32), search_axes={"beta": [0.1, 0.2], "alpha": [1, 2, 3]}
    )
    outcome.write(tmp_path)
    again = Outcome.read(tmp_path / "outcome.safetensors")
    assert list(again.search_axes) == ["beta", "alpha"]
    for field, value in outcome._asdict().items():
        np.testing.assert_array_equal(getattr(again, field), value)
    random_outcome(0).write(tmp_path)
    assert Outcome.read(tmp_path / "outcome.safetensors").search is None


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "outcome.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match=r"outcome\.safetensors is not the outcome of a run"):
        Outcome.read(tmp_path / "outcome.safetensors")


@given(st.integers(0, 2**31))
def test_confusion_and_class_accuracy_are_counted_image_by_image(seed):
    outcome = random_outcome(seed)
    expected = np.zeros((4, 4), int)
    for label, prediction in zip(outcome.label, outcome.prediction, strict=True):
        expected[label, prediction] += 1
    np.testing.assert_array_equal(outcome.confusion(), expected)
    for number, accuracy in enumerate(outcome.class_accuracy()):
        images = expected[number].sum()
        right = 100 * expected[number, number] / images if images else np.nan
        np.testing.assert_allclose(accuracy, right)


@given(st.integers(0, 2**31))
def test_the_reliability_diagram_gives_the_calibration_error(seed):
    generator = np.random.default_rng(seed)
    label, prediction = generator.integers(2, size=(2, 60))
    confidence = generator.uniform(0.5, 0.999, size=60).astype(np.float32)
    images, mean_confidence, accuracy = Outcome(
        ["a", "b"], label, prediction, confidence
    ).reliability()
    assert images.sum() == 60
    probabilities = np.where(
        prediction[:, None] == [0, 1], confidence[:, None], 1 - confidence[:, None]
    )
    expected = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(label), num_classes=2, n_bins=15
    )
    error = (images * abs(accuracy - mean_confidence)).sum() / 60
    assert error == pytest.approx(expected.item(), abs=1e-5)
