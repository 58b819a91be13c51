"""The simulation of a sweep, on cases that can be reckoned by hand, and in miniature."""

import json
import subprocess
import sys

import pytest

from benchmarks import makespan
from benchmarks.makespan import Job, first_and_then, limit, simulate
from tests import cli

TEST = ("digits", "test", "whole", "global")
MORE = ("digits", "test", "whole", "global spatial")
DRAWN = ("digits", "support", "10 crops", "1", "1", "global")
COST = {TEST: 10.0, MORE: 12.0, DRAWN: 5.0}


def test_who_needs_what_another_extracts_waits_for_it():
    jobs = [Job([TEST], 1), Job([TEST], 2), Job([], 3)]
    assert simulate(jobs, COST, 1) == (16, 0, 10)
    assert simulate(jobs, COST, 2) == (14, 10, 10)
    assert simulate(jobs, COST, 3) == (12, 10, 10)


def test_features_that_hold_more_serve_those_that_need_fewer():
    jobs = [Job([TEST], 1), Job([MORE], 1)]
    assert simulate(jobs, COST, 1).extracted == 22
    assert first_and_then(jobs, COST, 1) == (14, 0, 12)


def test_everything_is_extracted_before_the_first_job():
    """What one job asks for first is extracted by one worker."""
    jobs = [Job([TEST, DRAWN], 1), Job([TEST], 1), Job([], 1), Job([], 1)]
    assert first_and_then(jobs, COST, 2) == (15 + 2, 15, 15), "one worker stands still"
    apart = [Job([TEST], 1), Job([DRAWN], 1), Job([], 1), Job([], 1)]
    assert first_and_then(apart, COST, 2) == (10 + 2, 5, 15)
    assert limit(jobs, COST, 15, 8) == 11, "the longest extraction, and its job"
    assert limit(jobs, COST, 15, 1) == 19
    assert limit([*jobs, Job([], 30)], COST, 15, 2) == 30


def made_up():
    needs_by_shots = {
        k: [("test", "whole", "global", 1), ("support", "10 crops", "global", 10 * int(k))]
        for k in makespan._recipe("shots")
    }
    method = {"needs": needs_by_shots, "seconds": {"1": 1.0, "16": 4.0}}
    methods = dict.fromkeys(makespan._recipe("method"), method)
    return {"seconds_per_image": 1e-3, "methods": methods}


def test_the_recipe_is_simulated_and_drawn(tmp_path):
    jobs, cost = makespan.work(made_up())
    assert len(jobs) == 11 * 25 * 5 * 3
    assert cost["imagenet", "test", "whole", "global"] == 50
    assert cost["dtd", "support", "10 crops", "4", "2", "global"] == pytest.approx(
        47 * 4 * 10 / 1000
    )
    assert len(cost) == 11 * (1 + 15)
    alone, many = (first_and_then(jobs, cost, workers) for workers in (1, 64))
    assert alone.makespan == pytest.approx(limit(jobs, cost, sum(cost.values()), 1))
    assert alone.waiting == 0
    assert limit(jobs, cost, many.extracted, 64) < many.makespan < alone.makespan / 20
    makespan.draw(tmp_path / "plot.svg", made_up())
    assert "64" in (tmp_path / "plot.svg").read_text()


@pytest.mark.slow
def test_methods_are_measured():
    code = (
        "import json; from benchmarks import makespan;"
        "print(json.dumps(makespan.measure(['calip', 'gda'], (1, 2))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cli.ROOT, env=cli.ENVIRONMENT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    measured = json.loads(done.stdout.splitlines()[-1])
    assert 0 < measured["seconds_per_image"] < 1
    needs = {name: method["needs"] for name, method in measured["methods"].items()}
    whole = '"inference"'
    assert needs["calip"] == {k: [["test", whole, "global spatial", 1]] for k in needs["gda"]}
    assert ["val_few_shot", whole, "global", 4] in needs["gda"]["8"]
    assert [held for split, _, *held in needs["gda"]["8"] if split == "support"] == [["global", 80]]
    assert all(set(method["seconds"]) == {"1", "2"} for method in measured["methods"].values())
