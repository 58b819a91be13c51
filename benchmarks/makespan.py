"""How long the recipe `methods_2026` takes on 1, 8 and 64 workers, by a simulation.

`python -m benchmarks.makespan measure` runs each of the recipe's methods once with 1 shot and once
with 16, on `digits` with the backbone `tiny`, on one thread, and writes the seconds of processor
time into `makespan.json`. `python -m benchmarks.makespan` draws `docs/makespan.svg` from them.

What is assumed: a job takes as long on each of the eleven datasets as on `digits`, and what lies
between 1 and 16 shots is in between; each image takes as long to encode as one of `digits`; the
datasets have their own numbers of classes and test images. Workers cost nothing to start, and a
job nothing but its work: that of Hydra is left out.
"""

import argparse
import heapq
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf

from benchmarks import machine
from benchmarks.side_by_side import Figure
from src.files import CONFIG_DIR, RECIPES
from src.hints import without_hints
from src.job import job
from src.job.planned import Need
from src.job.planner import Planner

MEASURED = Path(__file__).with_suffix(".json")
PLOT = Path(__file__).parents[1] / "docs/makespan.svg"
WORKERS = (1, 8, 64)
EXTREMES = (1, 16)
OF_ALL = ("test", "test_crops")
"""Splits of as many rows as there are test images; of the others it depends on the classes."""
UNITS = (10, 720)
"""Classes and test images of `digits`."""
DATASETS = {
    "caltech101": (100, 2465), "oxford_pets": (37, 3669), "stanford_cars": (196, 8041),
    "oxford_flowers": (102, 2463), "food101": (101, 30300), "fgvc_aircraft": (100, 3333),
    "sun397": (397, 19850), "dtd": (47, 1692), "eurosat": (10, 8100), "ucf101": (101, 3783),
    "imagenet": (1000, 50000),
}  # fmt: skip
"""Classes and test images of each, by CoOp's splits."""

Features = tuple[str, ...]
"""An entry's dataset, split, preparation and what it was drawn with; the features it holds."""


class Job(NamedTuple):
    """A job, or an extraction that comes first: what it needs, and its own work.

    Attributes:
        needs: entries of the store, in the order in which they are needed.
        seconds: of work once they are there.
    """

    needs: Sequence[Features]
    seconds: float


class Outcome(NamedTuple):
    """What a simulation found.

    Attributes:
        makespan: seconds until the last job ends.
        waiting: seconds that workers stood still for an extraction, all together.
        extracted: seconds of extraction, all together.
    """

    makespan: float
    waiting: float
    extracted: float


def simulate(jobs: Sequence[Job], cost: Mapping[Features, float], workers: int) -> Outcome:
    """Give the jobs to workers in their order; who needs what another extracts waits for it.

    Args:
        jobs: in the order of their numbers.
        cost: seconds that each entry takes to extract.
        workers: how many work side by side.
    """
    waiting = extracted = end = 0.0
    there: dict[Features, float] = {}
    queue = iter(jobs)
    # When a worker goes on, and with what: a job's own work comes after its last entry.
    events: list[tuple[float, int, Job | None, int]] = [(0.0, w, None, 0) for w in range(workers)]
    while events:
        now, worker, at, step = heapq.heappop(events)
        if at is None:
            at = next(queue, None)
            if at is None:
                end = max(end, now)
                continue
        if step == len(at.needs):
            heapq.heappush(events, (now + at.seconds, worker, None, 0))
            continue
        entry = at.needs[step]
        ready = min((there[one] for one in _serving(entry) if one in there), default=None)
        if ready is None:
            extracted += cost[entry]
            ready = there[entry] = now + cost[entry]
        else:
            waiting += max(0.0, ready - now)
        heapq.heappush(events, (max(now, ready), worker, at, step + 1))
    return Outcome(end, waiting, extracted)


def _serving(entry: Features) -> Iterator[Features]:
    """List the entries that hold all the features of one."""
    *about, held = entry
    for more in ("", "spatial", "unprojected"):
        yield (*about, " ".join(sorted({*held.split(), *more.split()})))


def first_and_then(jobs: Sequence[Job], cost: Mapping[Features, float], workers: int) -> Outcome:
    """Simulate a sweep as `src.job.order` has it: no job begins before the last extraction."""
    there: set[Features] = set()
    extractions: list[Job] = []
    for each in sorted(jobs, key=_most_features):
        new = [entry for entry in each.needs if there.isdisjoint(_serving(entry))]
        there.update(new)
        if new:
            extractions.append(Job(new, 0.0))
    extractions.sort(key=lambda one: -sum(cost[entry] for entry in one.needs))
    first = simulate(extractions, cost, workers)
    rest = simulate([each._replace(needs=()) for each in jobs], cost, workers)
    idle = first.makespan * workers - first.extracted
    return Outcome(first.makespan + rest.makespan, idle, first.extracted)


def _most_features(job: Job) -> int:
    return -max((len(entry[-1].split()) for entry in job.needs), default=0)


def _recipe(key: str) -> list[str]:
    """Read what the recipe sweeps over."""
    params: Any = OmegaConf.load(RECIPES / "methods_2026.yaml").hydra.sweeper.params
    return str(params[key]).split(",")


def work(measured: Mapping[str, Any]) -> tuple[list[Job], dict[Features, float]]:
    """Make the recipe's jobs, in its order, and what their entries cost, from what was measured."""
    shots, seeds = ([*map(int, _recipe(key))] for key in ("shots", "seed"))
    jobs: list[Job] = []
    cost: dict[Features, float] = {}
    for dataset, method, k, seed in product(DATASETS, _recipe("method"), shots, seeds):
        about = measured["methods"][method]
        needs: list[Features] = []
        for split, prepared, held, rows in about["needs"][str(k)]:
            drawn = () if split in OF_ALL else (str(k), str(seed))
            entry = (dataset, split, prepared, *drawn, held)
            units = DATASETS[dataset][split in OF_ALL]
            cost[entry] = rows * units * measured["seconds_per_image"]
            needs.append(entry)
        least, most = (about["seconds"][str(one)] for one in EXTREMES)
        share = (k - EXTREMES[0]) / (EXTREMES[1] - EXTREMES[0])
        jobs.append(Job(needs, least + share * (most - least)))
    return jobs, cost


def limit(
    jobs: Sequence[Job], cost: Mapping[Features, float], extracted: float, workers: int
) -> float:
    """Return what no order is faster than: all work shared out, or an extraction and its job."""
    shared = (extracted + sum(each.seconds for each in jobs)) / workers
    alone = (each.seconds + max((cost[one] for one in each.needs), default=0) for each in jobs)
    return max(shared, *alone)


def figures() -> Iterator[Figure]:
    """Compare the order of a sweep with its limit, and with jobs that extract as they come."""
    measured = json.loads(MEASURED.read_text())
    jobs, cost = work(measured)
    for workers in WORKERS:
        ours, plain = first_and_then(jobs, cost, workers), simulate(jobs, cost, workers)
        least = limit(jobs, cost, ours.extracted, workers)
        yield Figure(
            f"methods_2026 simulated on {workers} workers: makespan over its limit",
            f"{ours.makespan / 3600:.2f} h", f"{plain.makespan / 3600:.2f} h",
            ours.makespan / least, None,
            limit=f"{ours.waiting / 3600:.2f} h of waiting, {plain.waiting / 3600:.2f} plain",
        )  # fmt: skip


def measure(methods: Sequence[str], shots: Sequence[int] = EXTREMES) -> dict[str, Any]:
    """Run each method on `digits`, and measure its work and that of its extractions.

    Returns:
        What `makespan.json` holds: `seconds_per_image`, and for each method `seconds` and `needs`,
        both by the number of shots. A need is a split, how its images are prepared, the features,
        and the number of rows for each test image or class.
    """
    images: list[int] = []
    spent: list[float] = []
    found: dict[str, Any] = {}

    def once(cfg: DictConfig) -> None:
        about = found.setdefault(cfg.method.name, {"seconds": {}, "needs": {}})
        with tempfile.TemporaryDirectory() as empty, without_hints():
            for k in _recipe("shots"):
                other = cfg.copy()
                other.shots, other.paths.features = int(k), empty
                about["needs"][k] = [_row(need) for need in _needs(other) if not need.is_text]
        with without_hints():
            for need in _needs(cfg):
                if need.missing:
                    began = _processor_seconds()
                    need.extract()
                    if not need.is_text:
                        spent.append(_processor_seconds() - began)
                        images.append(need.missing)
        began = _processor_seconds()
        job.run(cfg)
        about["seconds"][str(cfg.shots)] = round(_processor_seconds() - began, 3)

    with tempfile.TemporaryDirectory() as folder:
        warm = ["zero_shot", *methods]  # the first run imports everything, and does not count
        sys.argv[1:] = [
            "-m", f"method={','.join(warm)}", "dataset=digits", "logger=none",
            f"shots={','.join(map(str, shots))}", "~hydra.callbacks.sweep",
            f"hydra.sweep.dir={folder}/output", f"paths.features={folder}/features",
        ]  # fmt: skip
        hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")(once)()
    return {
        "dataset": "digits", "backbone": "tiny", "machine": machine.name(),
        "seconds_per_image": sum(spent) / sum(images),
        "methods": {name: found[name] for name in methods},
    }  # fmt: skip


def _needs(cfg: DictConfig) -> list[Need]:
    planner = Planner()
    planner.add(cfg)
    planner.plan()
    return list(planner.needs.values())


def _row(need: Need) -> tuple[str, str, str, float]:
    split = need.key["split"]
    units = UNITS[split in OF_ALL]
    prepared = json.dumps(need.key["preprocessing"], sort_keys=True)
    return split, prepared, " ".join(sorted(need.key["features"])), need.inputs / units


def _processor_seconds() -> float:
    """Give the processor time of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def draw(path: Path, measured: Mapping[str, Any]) -> None:
    """Plot makespan and waiting by the number of workers, beside the limit."""
    from matplotlib import pyplot

    jobs, cost = work(measured)
    ways = {"everything is extracted first": first_and_then, "jobs extract as they come": simulate}
    figure, (above, below) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for number, (name, way) in enumerate(ways.items()):
        outcomes = [way(jobs, cost, workers) for workers in WORKERS]
        places = [place + 0.4 * number for place in range(len(WORKERS))]
        above.bar(places, [one.makespan / 3600 for one in outcomes], 0.38, label=name)
        below.bar(
            places,
            [100 * one.waiting / one.makespan / workers
             for one, workers in zip(outcomes, WORKERS, strict=True)],
            0.38,
        )  # fmt: skip
    extracted = first_and_then(jobs, cost, 1).extracted
    for place, workers in enumerate(WORKERS):
        least = limit(jobs, cost, extracted, workers) / 3600
        above.hlines(
            least, place - 0.25, place + 0.65, color="black", label="limit" if not place else None
        )
    above.set(yscale="log", ylabel="makespan, hours", xlabel="workers")
    below.set(ylabel="of the workers' time: waiting, %", xlabel="workers")
    for axes in (above, below):
        axes.set_xticks([place + 0.2 for place in range(len(WORKERS))], map(str, WORKERS))
    above.legend(frameon=False)
    figure.suptitle(f"methods_2026: {len(jobs)} jobs, simulated from times on digits with tiny")
    figure.tight_layout()
    with pyplot.rc_context({"svg.hashsalt": "makespan"}):  # the same file each time
        figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Measure if told so; else draw, and print the table of the docs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.makespan", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["measure"])
    if parser.parse_args().what:
        os.environ.setdefault("WANDB_MODE", "offline")
        MEASURED.write_text(json.dumps(measure(_recipe("method"))))
        return
    measured = json.loads(MEASURED.read_text())
    draw(PLOT, measured)
    jobs, cost = work(measured)
    print("| workers | limit, h | makespan, h | waiting, h | makespan as they come | waiting |")
    print("| --- | --- | --- | --- | --- | --- |")
    for workers in WORKERS:
        ours, plain = first_and_then(jobs, cost, workers), simulate(jobs, cost, workers)
        hours = (
            limit(jobs, cost, ours.extracted, workers), ours.makespan, ours.waiting, plain.makespan,
            plain.waiting,
        )  # fmt: skip
        print(f"| {workers} | {' | '.join(f'{each / 3600:.2f}' for each in hours)} |")


if __name__ == "__main__":
    main()
