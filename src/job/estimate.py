"""What jobs would extract and store, how large that is and how long it takes, as a table."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

from omegaconf import DictConfig
from rich.filesize import decimal
from rich.text import Text

from src.command_line import make_console
from src.config import config_hash
from src.errors import UserError
from src.features.disk_space import RESERVE, free_bytes
from src.hints import without_hints
from src.job.dry_run import is_finished
from src.job.planned import Need
from src.job.planner import Planner
from src.job.probe import SECONDS, Probe
from src.terminal import print_rows

WORDS = {"dataset", "split", "backbone", "features"}


def show(jobs: Iterable[DictConfig], sweep: bool) -> None:
    """Print what jobs would extract and store, and about how long that takes.

    Args:
        jobs: their configurations, one after the other, each while it is Hydra's own.
        sweep: whether they are those of a sweep, which skips what is finished.

    Raises:
        UserError: a job would fail, or the disk is too small.
    """
    planner = Planner()
    seen: dict[str, bool] = {}
    total = 0
    logging.getLogger("src").setLevel(logging.ERROR)  # a run says the rest
    with without_hints():
        for cfg in jobs:
            total += 1
            own = config_hash(cfg) if sweep else ""
            if own not in seen:
                seen[own] = sweep and is_finished(cfg)
                if not seen[own]:
                    planner.add(cfg)
        planner.plan()
        if planner.failures and not sweep:
            raise UserError(next(iter(planner.failures)))
        probe = Probe(list(planner.needs.values()))
    console = make_console()
    finished = sum(seen.values())
    counted = [f"{total} job{'s' * (total != 1)}"]
    counted += [f"{finished} finished"] if finished else []
    counted += [f"{total - len(seen)} that repeat another"] if total > len(seen) else []
    console.print(", of them ".join([counted[0], " and ".join(counted[1:])][: len(counted)]))
    _print(probe)
    if planner.failures:
        raise UserError(
            "\n".join(
                f"{count} of {total} jobs would fail: {message}"
                for message, count in planner.failures.items()
            )
        )
    for store, needed in probe.bytes_by_store().items():
        free = free_bytes(store)
        if free < needed + RESERVE:
            raise UserError(
                f"the disk of {store} has {decimal(free)} free, and {decimal(needed + RESERVE)} "
                "are needed: free some space, or give a folder on another disk by "
                "paths.features=..."
            )


def _print(probe: Probe) -> None:
    """Print a row for each dataset, split, backbone and set of features, and what they sum to."""
    groups: dict[tuple[str, ...], list[Need]] = defaultdict(list)
    for need in probe.needs:
        groups[need.group].append(need)
    if not groups:
        make_console().print("nothing is to be extracted")
        return
    rows = [_row(group, needs, probe) for group, needs in sorted(groups.items())]
    print_rows(
        [{heading: Text(cell) for heading, cell in row.items()} for row in rows], WORDS, WORDS
    )
    console = make_console()
    images = sum(need.to_encode for need in probe.needs if not need.is_text)
    prompts = sum(need.to_encode for need in probe.needs if need.is_text)
    lines = [f"to encode: {images:,} images and {prompts:,} prompts"]
    for store, needed in probe.bytes_by_store().items():
        free = decimal(free_bytes(store))
        lines.append(f"to store: about {decimal(needed)} in {store}, whose disk has {free} free")
    if seconds := sum(map(probe.seconds, probe.needs)):
        lines.append(
            f"time to extract: about {_duration(max(seconds, 1))} on this machine, by a probe of "
            f"{SECONDS:.0f} seconds"
        )
    lines += [
        f"the weights of {name} are not here: it was measured with random ones, and a run fetches "
        "them first"
        for name in sorted(probe.without_weights)
    ]
    lines.append(
        "not estimated: starting jobs, loading models, and what methods do with the features "
        "(training, searches, tests)"
    )
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _row(group: Sequence[str], needs: Sequence[Need], probe: Probe) -> dict[str, str]:
    dataset, split, backbone, features = group
    return {
        "dataset": dataset,
        "split": split,
        "backbone": backbone,
        "features": features,
        "entries": str(len(needs)),
        "in store": str(sum(not need.missing for need in needs)),
        "images or prompts": f"{sum(need.inputs for need in needs):,}",
        "to encode": f"{sum(need.to_encode for need in needs):,}",
        "to store": decimal(sum(map(probe.bytes, needs))),
        "time": _duration(sum(map(probe.seconds, needs))),
    }


def _duration(seconds: float) -> str:
    """Write a rough duration in words."""
    if seconds < 1:
        return "< 1 s" if seconds > 0 else ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{round(seconds)} s"
