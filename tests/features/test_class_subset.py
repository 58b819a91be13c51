"""Base and new classes of a dataset."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from src.data import coop
from src.errors import UserError
from src.features import datamodule
from src.features.class_subset import ClassSubset
from src.features.precomputed import PrecomputedFeatures, Rows
from tests.shared import SHARED, needs_shared

WIDTH, CLASSES, SPLIT = 6, 5, {"train": 60, "val": 40, "test": 50}


@pytest.fixture
def source(tmp_path):
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "classes.json").write_text(json.dumps([f"class {n}" for n in range(CLASSES)]))
    (tmp_path / "meta.json").write_text(json.dumps({"logit_scale": 100, "logit_bias": -16.5}))
    text = 5 * torch.randn(CLASSES, WIDTH, generator=generator)
    save_file({"text": text}, tmp_path / "text.safetensors")
    for name, count in SPLIT.items():
        label = torch.randint(CLASSES, (count,), generator=generator)
        features = torch.randn(count, WIDTH, generator=generator)
        save_file({"global": features, "label": label}, tmp_path / f"{name}.safetensors")
    return PrecomputedFeatures(tmp_path)


@pytest.mark.parametrize("classes", [[0, 1, 2], [3, 4], [1], [4, 0]])
def test_a_subset_holds_the_rows_and_names_of_its_classes_only(source, classes, monkeypatch):
    monkeypatch.setattr(datamodule, "READ_AT_ONCE", 7)
    subset = ClassSubset(source, classes)
    assert subset.class_names == [f"class {n}" for n in classes]
    torch.testing.assert_close(subset.text, source.text[classes])
    torch.testing.assert_close(subset.prompt_text, source.prompt_text[sorted(classes)])
    assert subset.logit_scale == source.logit_scale
    assert subset.logit_bias == source.logit_bias == -16.5
    everything = source.split("test", ["global"]).tensors
    found = subset.split("test", ["global"])
    rows = [row for row, label in enumerate(everything["label"].tolist()) if label in classes]
    assert len(found) == len(rows)
    read = found.rows(0, len(found))
    torch.testing.assert_close(read["global"], everything["global"][rows])
    assert read["label"].tolist() == [classes.index(everything["label"][r]) for r in rows]


def test_sampling_comes_before_the_classes_are_divided(source):
    features, label = source.support(4, 1, ["global"], None)
    base, of_base = ClassSubset(source, [0, 1, 2]).support(4, 1, ["global"], None)
    rows = [row for row, one in enumerate(label.tolist()) if one < 3]
    torch.testing.assert_close(base["global"], features["global"][:, rows])
    assert of_base.tolist() == label[rows].tolist()
    few = source.few_shot_validation(8, 1, ["global"], 4)
    subset = ClassSubset(source, [3, 4]).few_shot_validation(8, 1, ["global"], 4)
    kept = [row for row, one in enumerate(few.tensors["label"].tolist()) if one >= 3]
    found = subset.rows(0, len(subset))
    torch.testing.assert_close(found["global"], few.tensors["global"][kept])


def test_classes_without_an_image_are_one_message(source):
    (test := source.split("test", ["global"]).tensors)["label"].clamp_(max=2)
    save_file(test, source._folder / "test.safetensors")
    with pytest.raises(UserError, match="no test image of the 2 classes from 'class 3' to"):
        ClassSubset(source, [3, 4]).split("test", ["global"])


PUBLISHED = {
    "eurosat": ("split_zhou_EuroSAT.json", "2750"),
    "dtd": ("split_zhou_DescribableTextures.json", "images"),
    "oxford_pets": ("split_zhou_OxfordPets.json", "images"),
}


class Keyed(PrecomputedFeatures):
    """The items of a split file, whose only feature is the row."""

    def __init__(self, dataset):
        self.class_names, self._dataset = dataset.class_names, dataset

    def split(self, name, _):
        items = self._dataset.splits[name]
        row = torch.arange(len(items)).unsqueeze(1)
        return Rows({"global": row, "label": torch.tensor([item.label for item in items])})


@needs_shared
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("dataset", PUBLISHED)
def test_base_support_sets_are_the_published_ones(dataset, seed, tmp_path):
    split_file, images = PUBLISHED[dataset]
    (tmp_path / split_file).write_text((SHARED / "coop/splits" / split_file).read_text())
    source = Keyed(coop.read(str(tmp_path), images, split_file))
    base = range(math.ceil(len(source.class_names) / 2))
    features, label = ClassSubset(source, base).support(16, seed, [], None)
    train = source._dataset.splits["train"]
    drawn = [train[row].key for row in features["global"].flatten().tolist()]
    published = json.loads(
        (SHARED / "coop/fewshot" / dataset / f"shot_16-seed_{seed}.json").read_text()
    )["train"]["data"]
    expected = [row for row in published if row["label"] in base]
    assert [f"/{images}/{key}" for key in drawn] == [
        "/" + row["impath"].split("/", 3)[3] for row in expected
    ]
    assert label.tolist() == [row["label"] for row in expected]
