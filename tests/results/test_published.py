import pytest

from src.results.published import OPENAI_RN50, common_source, describe, published


@pytest.mark.parametrize(
    ("dataset", "method", "shots", "accuracies"),
    [
        ("eurosat", "zero_shot", 0, {"b": 37.52, "a": 37.54}),
        ("caltech101", "calip", 0, {"a": 87.71}),
        ("sun397", "calip", 0, {"a": 58.7, "c": 58.6}),
        ("imagenet_v2", "calip", 0, {"c": 53.7}),
        ("dtd", "tip_adapter", 16, {"b": 60.93, "a": 60.7}),
        ("dtd", "tip_adapter", 3, {}),
        ("digits", "calip", 0, {}),
    ],
)
def test_accuracies_are_found_by_dataset_method_and_shots(dataset, method, shots, accuracies):
    found = published(dataset, method, shots, *OPENAI_RN50)
    assert list(found.items()) == list(accuracies.items())


def test_other_backbones_and_weights_have_no_published_accuracy():
    assert published("eurosat", "calip", 0, "vit_b32", "ViT-B-32-quickgelu/openai") == {}
    assert published("eurosat", "calip", 0, "rn50", "RN50-quickgelu/None") == {}


@pytest.mark.parametrize(
    ("methods", "source"),
    [
        (["zero_shot", "tip_adapter"], "b"),
        (["zero_shot", "calip"], "a"),
        (["zero_shot", "tip_adapter", "coop"], "a"),
        (["linear_probe"], None),
    ],
)
def test_a_table_compares_with_the_one_source_that_has_the_most_of_its_figures(methods, source):
    found = [published("caltech101", method, 16, *OPENAI_RN50) for method in methods]
    assert common_source(found) == source


def test_a_source_says_what_it_is():
    assert "Tip-Adapter" in describe("b")
