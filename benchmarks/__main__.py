"""`python -m benchmarks [NAME ...]`: run each benchmark in a process of its own.

The figures go into docs/benchmarks.json, which the manual's page on speed shows. The exit code is 1
if a target was missed.
"""

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.side_by_side import Figure, measure
from src.files import ROOT, write_json
from src.results.record import git_revision

HEADINGS = ("what", "ours", "plain", "ratio or value (target)", "of the machine's limit")
RECORD = ROOT / "docs/benchmarks.json"
NO_BENCHMARK = {"__init__", "__main__", "machine", "side_by_side"}


def names() -> list[str]:
    """List the benchmarks: every module here that has `figures`."""
    return sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - NO_BENCHMARK)


def show(found: list[Figure]) -> None:
    """Print the figures as a table."""
    table = Table(*HEADINGS)
    for figure in found:
        table.add_row(*figure.cells())
    Console().print(table)


def keep(name: str, found: list[Figure], path: Path = RECORD) -> None:
    """Put the figures of a benchmark in place of its earlier ones in the record."""
    record = json.loads(path.read_text()) if path.is_file() else {}
    record[name] = {
        "machine": machine.name(),
        "date": date.today().isoformat(),
        "commit": git_revision() or "unknown",
        "figures": [figure.cells() for figure in found],
    }
    write_json(path, record)


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names())}")
    chosen = parser.parse_args().names or names()
    if unknown := set(chosen) - set(names()):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}: {', '.join(names())}")
    reached = True
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for name in chosen:
            show(found := processes.submit(measure, name).result())
            keep(name, found)
            reached = reached and all(figure.reached for figure in found)
    sys.exit(not reached)


if __name__ == "__main__":
    main()
