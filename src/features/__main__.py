"""`python -m src.features`: the earlier name of `python -m src.store`."""

from src.command_line import run_command
from src.store.__main__ import main

if __name__ == "__main__":
    run_command(main)
