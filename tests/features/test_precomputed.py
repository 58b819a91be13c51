import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.errors import UserError
from src.features import precomputed

BOTH = ["global", "spatial"]


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)

    def split(n, crops=()):
        shape = (*crops, n, 8)
        return {
            "global": torch.randn(*shape, generator=generator).half(),
            "spatial": torch.randn(n, 5, 8, generator=generator).half(),
            "label": torch.arange(n) % 3,
        }

    (tmp_path / "classes.json").write_text(json.dumps(["cat", "dog", "wild_boar"]))
    (tmp_path / "meta.json").write_text(json.dumps({"logit_scale": 50, "backbone": "mine"}))
    save_file({"text": torch.randn(3, 8, generator=generator)}, tmp_path / "text.safetensors")
    save_file(split(12, crops=(2,)), tmp_path / "train.safetensors")
    save_file(split(9), tmp_path / "val.safetensors")
    save_file(split(7), tmp_path / "test.safetensors")
    return tmp_path


def change(path, **tensors):
    content = load_file(path) | tensors
    save_file({name: tensor for name, tensor in content.items() if tensor is not None}, path)


def test_reads_what_the_folder_holds(folder):
    features = precomputed.read(str(folder))
    text, scale = features.text, features.logit_scale
    assert (features.class_names, features.origin.backbone) == (["cat", "dog", "wild_boar"], "mine")
    assert (text.shape, text.dtype, scale) == ((3, 8), torch.float32, 50.0)
    test = features.split("test", inputs=BOTH)
    assert len(test) == 7
    stored = load_file(folder / "test.safetensors")
    for name, tensor in test.rows(2, 5).items():
        assert torch.equal(tensor, stored[name][2:5])
    assert features.split("train", inputs=["global"]).rows(0, 12)["global"].shape == (12, 2, 8)


def test_the_bias_of_a_model_trained_with_a_sigmoid_may_be_given(folder):
    assert precomputed.read(str(folder)).logit_bias == 0
    (folder / "meta.json").write_text(json.dumps({"logit_scale": 112, "logit_bias": -16.5}))
    assert precomputed.read(str(folder)).logit_bias == -16.5


def test_raw_text_is_what_the_folder_says_or_text_that_was_not_normalised(folder):
    path = folder / "text.safetensors"
    text = load_file(path)["text"]
    assert torch.equal(precomputed.read(str(folder)).raw_text, text)
    unit = torch.nn.functional.normalize(text, dim=-1)
    change(path, text=unit)
    with pytest.raises(UserError, match=r"text has been normalised.*add raw_text"):
        precomputed.read(str(folder)).raw_text  # noqa: B018
    change(path, raw_text=10 * text)
    features = precomputed.read(str(folder))
    assert torch.equal(features.raw_text, 10 * text)
    assert torch.equal(features.text, unit)
    change(path, raw_text=text[:2])
    with pytest.raises(UserError, match=r"2 text features and classes\.json 3"):
        precomputed.read(str(folder)).raw_text  # noqa: B018


def test_a_feature_that_the_format_lacks_is_named(folder):
    with pytest.raises(UserError, match="needs colour features"):
        precomputed.read(str(folder)).split("test", ["global", "colour"])


def test_few_shot_validation_takes_up_to_four_per_class(folder):
    features = precomputed.read(str(folder))
    drawn = features.few_shot_validation(shots=2, seed=0, inputs=BOTH)
    assert sorted(drawn.tensors["label"].tolist()) == [0, 0, 1, 1, 2, 2]
    assert drawn.tensors["spatial"].shape == (6, 5, 8)
    stored = load_file(folder / "val.safetensors")["global"]
    for row in drawn.tensors["global"]:
        assert (stored == row).all(dim=1).any()


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("test", {"label": torch.zeros(6, dtype=torch.int64)}, "global has 7 rows and label 6"),
        ("test", {"label": torch.zeros(7)}, "label is torch.float32"),
        ("test", {"label": torch.full((7,), 3)}, "label runs from 3 to 3"),
        ("test", {"label": torch.full((7,), -1)}, "label runs from -1 to -1"),
        ("test", {"label": None}, "holds no tensor called 'label'"),
        ("test", {"global": torch.zeros(7, 9)}, "global has 9 dimensions and text.safetensors 8"),
        ("test", {"global": torch.zeros(7, 2, 8)}, "global has the shape"),
        ("test", {"global": torch.full((7, 8), torch.nan)}, "global holds NaN"),
        ("test", {"spatial": None}, "holds no tensor called 'spatial'"),
        ("test", {"spatial": torch.full((7, 5, 8), torch.inf)}, "spatial holds NaN"),
        ("test", {"spatial": torch.zeros(7, 8)}, "spatial has the shape"),
        ("text", {"text": torch.zeros(4, 8)}, "has 4 text features and classes.json 3"),
        ("text", {"text": torch.full((3, 8), torch.nan)}, "text holds NaN"),
    ],
)
def test_malformed_tensors_are_refused(folder, file, changes, message):
    change(folder / f"{file}.safetensors", **changes)
    with pytest.raises(UserError, match=message) as error:
        precomputed.read(str(folder)).split("test", inputs=BOTH)
    assert f"{file}.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classes.json", "[]", "must be a list of class names"),
        ("classes.json", "[1, 2, 3]", "must be a list of class names"),
        ("classes.json", "{", "is not JSON"),
        ("meta.json", "{}", "positive number logit_scale"),
        ("meta.json", '{"logit_scale": -1}', "positive number logit_scale"),
        ("meta.json", '{"logit_scale": NaN}', "positive number logit_scale"),
        ("meta.json", "[]", "positive number logit_scale"),
        ("meta.json", '{"logit_scale": 9, "logit_bias": "-16"}', "logit_bias must be a number"),
        ("meta.json", '{"logit_scale": 9, "logit_bias": NaN}', "logit_bias must be a number"),
        ("test.safetensors", "not tensors", "is not a safetensors file"),
    ],
)
def test_malformed_files_are_refused(folder, file, content, message):
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        precomputed.read(str(folder)).split("test", inputs=["global"])
    assert file in str(error.value)


@pytest.mark.parametrize(
    "file", ["classes.json", "meta.json", "text.safetensors", "test.safetensors"]
)
def test_missing_files_are_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        precomputed.read(str(folder)).split("test", inputs=["global"])


def test_a_missing_folder_and_a_missing_validation_split_are_explained(folder):
    with pytest.raises(UserError, match=r"dataset\.path=.*nowhere is missing"):
        precomputed.read(str(folder / "nowhere"))
    (folder / "val.safetensors").unlink()
    with pytest.raises(UserError, match="selection=fixed"):
        precomputed.read(str(folder)).split("val", inputs=["global"])
