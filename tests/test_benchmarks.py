import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import extraction, extraction_gpu, sweep
from benchmarks.__main__ import keep, names
from benchmarks.side_by_side import Figure, take_turns


def test_ways_take_turns_and_the_median_of_the_ratios_counts(monkeypatch):
    order, clock = [], iter([0, 1, *(0, 1, 1, 4), *(10, 12, 12, 14), *(20, 21, 21, 41)])
    watch = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("benchmarks.side_by_side.time", watch)
    turns = take_turns(
        rounds=3, ours=lambda: order.append("ours"), plain=lambda: order.append("plain")
    )
    assert order == ["ours", "plain"] * 4  # the first round does not count
    assert turns.seconds == {"ours": [1, 2, 1], "plain": [3, 2, 20]}
    assert turns.median("ours") == 1
    assert turns.ratio("plain") == 3


@pytest.mark.parametrize(
    ("value", "target", "at_least", "reached"),
    [(2, 2, True, True), (1.9, 2, True, False), (1.9, 2, False, True), (9, None, True, True)],
)
def test_a_missed_target_is_said(value, target, at_least, reached):
    figure = Figure("search", "1 s", "2 s", value, target, at_least)
    assert figure.reached == reached
    assert ("MISSED" in figure.verdict) == (not reached)


def test_every_benchmark_is_found():
    assert {"calip_scoring", "sweep", "extraction"} <= set(names())
    assert "machine" not in names()


def test_figures_take_the_place_of_those_of_an_earlier_run(tmp_path):
    path = tmp_path / "benchmarks.json"
    keep("search", [Figure("search", "1 s", "2 s", 2.0, 2)], path)
    keep("sweep", [Figure("a sweep", "3 s", "", 3.0, None)], path)
    keep("search", [Figure("search", "1 s", "3 s", 3.0, 2)], path)
    record = json.loads(path.read_text())
    assert [one["figures"] for one in record.values()] == [
        [["search", "1 s", "3 s", "3 (≥ 2)", ""]],
        [["a sweep", "3 s", "", "3", ""]],
    ]
    assert all(one["machine"] and one["date"] and one["commit"] for one in record.values())


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(extraction, "MODELS", (extraction.TINY,))
    monkeypatch.setattr(extraction, "ROUNDS", 1)


def test_without_a_gpu_its_benchmark_says_that_it_measured_nothing(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(extraction_gpu.figures()) == []
    assert "on a GPU: not measured, because there is none" in capsys.readouterr().out


def test_the_benchmark_of_a_gpu_measures_and_compares_on_what_it_is_given(small, monkeypatch):
    monkeypatch.setattr(extraction_gpu, "PRECISIONS", {"bf16-true": torch.bfloat16})
    rate, likeness = extraction_gpu.on(torch.device("cpu"), "a processor", images=10, batch=4)
    assert rate.what.endswith(f"to features on a processor, {extraction.TINY}, bf16-true")
    assert rate.value > 0
    assert likeness.reached


def test_the_stages_of_an_extraction_add_up_to_the_whole(small, tmp_path):
    _, dataset = extraction.photographs(tmp_path)
    clip = extraction.FrozenClip.load(extraction.TINY, None)
    threads = torch.get_num_threads()
    *shares, products = extraction.shares(clip, "32-true", dataset, "tiny")
    assert torch.get_num_threads() == threads
    assert len(shares) == 6
    assert sum(one.value for one in shares) == pytest.approx(1)
    assert 0 < products.value < 1
    assert all(one.reached for one in (*shares, products))  # they are told and not judged


def test_targets_are_stated_for_every_kind_of_unit():
    assert all(goals.keys() == set(extraction.MODELS) for goals in extraction.TARGETS.values())
    assert {"amx_bf16", "avx512_bf16", extraction.units("32-true")} == extraction.TARGETS.keys()


@pytest.mark.slow
def test_the_benchmark_of_a_sweep_still_fits_the_code_that_it_measures(tmp_path):
    assert sweep.until_first_batch(tmp_path) > 0
    assert sweep.empty(tmp_path, sweep.ONE) > 0
    assert min(sweep.ours(tmp_path, sweep.ONE)) > 0
