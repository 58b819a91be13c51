"""`python -m src.predict model=RUN images=FOLDER`: classify new pictures with what a run adapted.

Answers are written while they are found; started again, the command continues where it stopped.
"""

import sys

from src.command_line import run_command
from src.predict.settings import Settings
from src.typed import read


def main() -> None:
    """Read the command line, classify, and say how it went.

    Raises:
        UserError: a setting, the classifier or the list of images is wrong.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{__doc__}\n{Settings.__doc__}")
        return
    settings = read(Settings, sys.argv[1:])
    from src.predict import work  # with torch, which mistakes need not wait for

    work.run(settings)


if __name__ == "__main__":
    run_command(main)
