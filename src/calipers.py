"""`calipers COMMAND ...`: what an installed package is started by, from any folder.

`calipers run ...` is `python -m src.run ...`, and so for each command. Imports none of them.
"""

import difflib
import os
import runpy
import sys
from typing import NamedTuple

from src.command_line import run_command
from src.errors import UserError


class Command(NamedTuple):
    """The module that `python -m` takes, and what it does."""

    module: str
    summary: str


COMMANDS = {
    "run": Command("src.run", "adapt CLIP and test it; with -m a sweep"),
    "prepare": Command("src.prepare", "fetch datasets, and check that they are whole"),
    "predict": Command("src.predict", "classify new pictures with what a run adapted"),
    "export": Command("src.export", "write what a run adapted for other programs"),
    "report": Command("src.report", "tables, plots and one page of all runs below some folders"),
    "features": Command("src.features", "list, verify or remove what is stored; judge a precision"),
    "methods": Command("src.methods", "a table of all methods"),
    "depth-maps": Command("src.depth_maps", "a picture of what CLIP sees of point clouds"),
    "demo": Command("src.demo", "try in a browser what a run adapted"),
    "completion": Command("src.completion", "let the tab key complete all of this"),
    "dashboard": Command("src.dashboard", "write the saved view of a W&B project"),
}


def main() -> None:
    """Run the command that is named, as `python -m` runs its module."""
    if (name := "".join(sys.argv[1:2])) not in COMMANDS:
        run_command(_tell)
        return
    # Processes that a command starts would prefer a folder `src` where they stand to this package.
    os.environ["PYTHONSAFEPATH"] = "1"
    del sys.argv[1]
    runpy.run_module(COMMANDS[name].module, run_name="__main__", alter_sys=True)


def _tell() -> None:
    """Say which commands there are.

    Raises:
        UserError: nothing, or something else than help, was asked for.
    """
    asked = sys.argv[1:]
    if {"-h", "--help", "help"} & set(asked[:1]):
        width = max(map(len, COMMANDS))
        print("usage: calipers COMMAND ...\n")
        print("Zero-shot and few-shot adaptation of CLIP.\n")
        print(*(f"  {name:{width}}  {one.summary}" for name, one in COMMANDS.items()), sep="\n")
        print("\n`calipers COMMAND --help` says what a command takes.")
        return
    if not asked:
        raise UserError(f"name a command, one of {', '.join(COMMANDS)}; `--help` explains them.")
    settings = "=" in asked[0]
    near = ["run"] if settings else difflib.get_close_matches(asked[0], COMMANDS, 1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise UserError(f"there is no command {asked[0]!r}. {hint}There are {', '.join(COMMANDS)}.")
