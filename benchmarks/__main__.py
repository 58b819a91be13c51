"""`python -m benchmarks [NAME ...]`: run each benchmark in a process of its own.

The exit code is 1 if a target was missed.
"""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.side_by_side import Figure, measure

HEADINGS = ("what", "ours", "plain", "ratio or value (target)", "of the machine's limit")
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


def as_markdown(found: list[Figure]) -> str:
    """Write the README's table."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(figure.cells() for figure in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names())}")
    chosen = parser.parse_args().names or names()
    if unknown := set(chosen) - set(names()):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}: {', '.join(names())}")
    found: list[Figure] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for name in chosen:
            found += (of_one := processes.submit(measure, name).result())
            show(of_one)
    print(f"\n{machine.name()}\n\n{as_markdown(found)}")
    sys.exit(not all(figure.reached for figure in found))


if __name__ == "__main__":
    main()
