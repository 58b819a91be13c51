import pytest

from src.results.published import published

OPENAI = "RN50-quickgelu/openai"


@pytest.mark.parametrize(
    ("dataset", "method", "shots", "accuracy"),
    [
        ("eurosat", "zero_shot", 0, 37.52),
        ("eurosat", "calip", 0, 38.9),
        ("imagenet_v2", "calip", 0, 53.7),
        ("dtd", "tip_adapter", 16, 60.93),
        ("dtd", "tip_adapter", 3, None),
        ("digits", "calip", 0, None),
    ],
)
def test_accuracies_are_found_by_dataset_method_and_shots(dataset, method, shots, accuracy):
    assert published(dataset, method, shots, "rn50", OPENAI) == accuracy


def test_other_backbones_and_weights_have_no_published_accuracy():
    assert published("eurosat", "calip", 0, "vit_b32", "ViT-B-32-quickgelu/openai") is None
    assert published("eurosat", "calip", 0, "rn50", "RN50-quickgelu/None") is None
