"""What an estimate makes of measurements."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src.features.plan import crop_by_crop
from src.job import probe
from src.job.estimate import _duration
from src.job.planned import Need, PlannedEntry, is_here
from src.job.probe import Probe

DECODING, ENCODING = 0.1, 0.01


def need(rows, processes=1):
    source = SimpleNamespace(n_views=None, processes=processes, root=Path("store"))
    names = ["global", "spatial"]
    key = {"split": "test", "dataset": "d", "backbone": "b", "weights": "w", "features": names}
    entry = PlannedEntry(Path(), {"rows": rows}, torch.zeros(rows))
    plan = crop_by_crop([None] * rows, None, batch_size=10)
    return Need(key | {"preprocessing": "inference"}, entry, rows, 40, source, plan)


def measured(one, on_processor):
    """Make what a probe has found, without probing."""
    made = Probe([])
    made.needs = [one]
    decoding, encoding = probe._kinds(one)
    made._seconds = {decoding: DECODING, encoding: ENCODING}
    made._on_processor = {probe._model(one): on_processor}
    made._shapes[probe._model(one)] = {"global": [8], "spatial": [5, 8]}
    return made


@pytest.mark.parametrize(
    ("rows", "on_processor", "processes", "expected"),
    [
        (30, True, 1, 30 * (DECODING + ENCODING)),  # too few batches for workers
        (1000, True, 1, 1000 * (DECODING / 4 + ENCODING)),  # the same processors do both
        (1000, True, 2, 1000 * (DECODING / 4 + ENCODING)),
        (1000, False, 1, 1000 * DECODING / 4),  # the device waits for images
        (30, False, 2, 30 * (DECODING + ENCODING / 2)),
    ],
)
def test_decoding_is_shared_by_workers_and_encoding_by_devices(
    monkeypatch, rows, on_processor, processes, expected
):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    one = need(rows, processes)
    assert measured(one, on_processor).seconds(one) == pytest.approx(expected)


def test_the_size_is_that_of_float16_features_and_labels():
    one = need(1000)
    size = measured(one, True).bytes_by_store()[Path("store")]
    assert size == pytest.approx(1000 * (2 * (8 + 5 * 8) + 8), rel=0.12)
    assert size > 1000 * (2 * (8 + 5 * 8) + 8)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, ""), (0.4, "< 1 s"), (65, "65 s"), (300, "5.0 min"), (9000, "2.5 h")],
)
def test_durations_are_rough(seconds, words):
    assert _duration(seconds) == words


def test_weights_are_looked_for_where_open_clip_keeps_them(tmp_path, monkeypatch):
    place = {"hf_hub": "timm/vit_base_patch32_clip_224.openai/"}
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda *_: place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    there = []
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda repository, name: name if (repository, name) in there else None,
    )
    assert not is_here("ViT-B-32", "openai")
    there.append(("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"))
    assert is_here("ViT-B-32", "openai")
    place = {"url": "https://example.org/x/RN50.pt"}
    assert not is_here("RN50", "openai")
    (tmp_path / ".cache/clip").mkdir(parents=True)
    (tmp_path / ".cache/clip/RN50.pt").touch()
    assert is_here("RN50", "openai")
    (tmp_path / "mine.pt").touch()
    assert is_here("RN50", str(tmp_path / "mine.pt"))
