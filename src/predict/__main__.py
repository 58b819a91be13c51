"""`python -m src.predict model=RUN images=FOLDER`: classify new pictures with what a run adapted.

Answers are written while they are found; started again, the command continues where it stopped.
"""

from src.command_line import run_command
from src.predict.settings import Settings
from src.typed import read_command_line


def main() -> None:
    """Read the command line, classify, and say how it went.

    Raises:
        UserError: a setting, the classifier or the list of images is wrong.
    """
    settings = read_command_line(Settings, __doc__)
    from src.predict import work  # with torch, which mistakes need not wait for

    work.run(settings)


if __name__ == "__main__":
    run_command(main)
