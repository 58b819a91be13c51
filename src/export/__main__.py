"""`python -m src.export model=RUN output=FILE`: write what a run adapted for other programs.

One file leads from an image to the probabilities of the classes: the image tower and what the run
adapted, without the text tower. How images are prepared stands in it, and a small program beside
it does so. A file that does not answer as the original does is not left.
"""

from src.command_line import run_command
from src.export.settings import Settings
from src.typed import read_command_line


def main() -> None:
    """Read the command line, write the file, and say how it compares with the original.

    Raises:
        UserError: a setting or the classifier is wrong, the extra is not installed, the method
            cannot be exported, or the file answers otherwise than the original.
    """
    settings = read_command_line(Settings, __doc__)
    from src.export import work  # with torch, which mistakes need not wait for

    work.run(settings)


if __name__ == "__main__":
    run_command(main)
