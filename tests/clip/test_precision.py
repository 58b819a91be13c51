from functools import partial

import pytest
import torch
from lightning import Trainer
from torch.nn.functional import cosine_similarity

from src.clip.precision import AUTO, BFLOAT16, FLOAT32, resolve
from src.data import digits
from src.data.images import ImageArrays
from src.features.image_features import ImageFeatures
from src.store.store import FeatureStore

TRAINER = partial(
    Trainer, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, use_distributed_sampler=False,
)  # fmt: skip


@pytest.fixture
def processor(monkeypatch):
    def pretend(capabilities, in_use="AVX512"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: in_use)

    return pretend


@pytest.fixture
def source(tmp_path):
    whole = digits.read()
    splits = {"train": [], "val": [], "test": whole.splits["test"][:40]}
    dataset = ImageArrays(whole.pixels, whole.class_names, splits)

    def make(precision):
        return ImageFeatures(
            "digits", dataset, [["a"]], "tiny", "local-dir:src/clip/tiny", None, precision, 16,
            FeatureStore(tmp_path), TRAINER,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("unit", ["amx_bf16", "avx512_bf16"])
def test_auto_is_bfloat16_where_the_processor_has_a_unit_that_torch_uses(processor, unit):
    processor({"avx512_f": True, unit: True})
    assert resolve(AUTO, TRAINER) == BFLOAT16
    processor({"avx512_f": True, unit: False})
    assert resolve(AUTO, TRAINER) == FLOAT32
    processor({"avx512_f": True, unit: True}, in_use="AVX2")
    assert resolve(AUTO, TRAINER) == FLOAT32


def test_auto_is_float32_where_torch_does_not_tell(processor, monkeypatch):
    processor({})
    assert resolve(AUTO, TRAINER) == FLOAT32
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert resolve(AUTO, TRAINER) == FLOAT32


def test_auto_is_float32_on_a_gpu(processor):
    class OnGpu:
        accelerator = object()

    processor({"amx_bf16": True})
    assert resolve(AUTO, OnGpu) == FLOAT32


@pytest.mark.parametrize("asked", [FLOAT32, BFLOAT16, "16-mixed"])
@pytest.mark.parametrize("units", [False, True])
def test_what_is_asked_for_stays(processor, asked, units):
    processor({"amx_bf16": units})
    assert resolve(asked, lambda: pytest.fail("a Trainer was made")) == asked


def test_the_store_tells_resolved_precisions_apart(source, processor):
    entries = {}
    for units in (False, True):
        processor({"amx_bf16": units})
        features = source(AUTO)
        entries[features.precision] = features.split("test", inputs=["global"])
    assert list(entries) == [FLOAT32, BFLOAT16]
    for name, entry in entries.items():
        assert entry.manifest["key"]["precision"] == name
        assert source(name).split("test", inputs=["global"]).path == entry.path
    full, half = (entry.tensor("global").float() for entry in entries.values())
    assert not torch.equal(full, half)
    assert cosine_similarity(full, half).min() > 0.999
