"""`python -m src.report DIR...`: the results below some folders, as tables and one page.

It imports no torch.
"""

import argparse
from pathlib import Path

from src.command_line import run_command
from src.results.page import FOLDER, write_report


def main() -> None:
    """Write the report, and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m src.report",
        description="Tables, plots and one HTML page of all runs below some folders.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="of runs or sweeps")
    parser.add_argument("--output", type=Path, help=f"default: {FOLDER}/ in the first DIR")
    arguments = parser.parse_args()
    page = write_report(arguments.folders, arguments.output or arguments.folders[0] / FOLDER)
    print(f"report in {page}")


if __name__ == "__main__":
    run_command(main)
