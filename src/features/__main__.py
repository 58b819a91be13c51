"""`python -m src.features ls|verify|rm|fidelity`.

The first three are those of `python -m src.store`, of which this is the earlier name; the last one
compares features in two precisions.
"""

import sys

from src.command_line import run_command

FIDELITY = "fidelity"


def main() -> None:
    """Hand over to one of the two commands."""
    asked = sys.argv[1:2]
    if asked == [FIDELITY]:
        del sys.argv[1]
        from src.fidelity import main as command  # with Hydra, which the store need not wait for
    else:
        from src.store.__main__ import main as command
    if {"-h", "--help"} & set(asked):
        print(f"`{FIDELITY}` compares two precisions (see `{FIDELITY} --help`). The others:\n")
    command()


if __name__ == "__main__":
    run_command(main)
