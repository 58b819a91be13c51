"""`python -m src.demo model=RUN`: try in a browser what a run adapted; it needs calipers[demo].

Pictures stay on this machine, and are removed once they are classified.
"""

from importlib.util import find_spec

from src.command_line import run_command
from src.demo.settings import Settings
from src.errors import UserError
from src.typed import read_command_line


def main() -> None:
    """Read the command line, load the classifier, and serve the page until a signal comes.

    Raises:
        UserError: a setting or the classifier is wrong, gradio is missing, or the port is in use.
    """
    settings = read_command_line(Settings, __doc__)
    if find_spec("gradio") is None:
        raise UserError('the demo needs the package gradio: pip install "calipers[demo]"')
    from src.demo import server  # with torch, which mistakes need not wait for

    server.run(settings)


if __name__ == "__main__":
    run_command(main)
