"""`python -m src.report PLACE...`: results as tables and one page, or as a file for others.

It imports no torch.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from src.command_line import run_command
from src.results import index, submission
from src.results.page import FOLDER, write_report


def main() -> None:
    """Write the report, an index of reports or a file of results, and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m src.report",
        description="Tables, plots and one HTML page of all runs in some places.",
    )
    parser.add_argument(
        "places", nargs="+", type=Path, metavar="PLACE",
        help="a folder of runs or sweeps, or a file of results (*.jsonl)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help=f"a folder; default: {FOLDER}/ in the first")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--index", action="store_true",
        help=f"only link the reports below the folders, in {index.INDEX} of the first",
    )  # fmt: skip
    instead.add_argument(
        "--submit-file", type=Path, metavar="FILE",
        help="only write the results into a file that others can merge, without paths and names "
        "of this machine",
    )  # fmt: skip
    arguments = parser.parse_args()
    places: Sequence[Path] = arguments.places
    if arguments.index:
        print(f"index in {index.write_index(places, arguments.output or places[0])}")
    elif arguments.submit_file:
        count = submission.submit(places, arguments.submit_file)
        print(f"{count} results in {arguments.submit_file}: read it before you give it away")
    else:
        print(f"report in {write_report(places, arguments.output or _beside(places[0]))}")


def _beside(place: Path) -> Path:
    return place.parent / FOLDER if place.suffix == submission.SUFFIX else place / FOLDER


if __name__ == "__main__":
    run_command(main)
