"""`python -m src.methods`: a table of all methods, which the manual has too."""

import argparse
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig
from rich.text import Text

from src.command_line import run_command
from src.config import compose, selection_of
from src.files import CONFIG_DIR
from src.terminal import print_rows

COLUMNS = (
    "method", "published", "needs", "trained", "selects on", "its authors selected on",
    "trained parameters",
)  # fmt: skip
PROSE = ("needs", "its authors selected on", "trained parameters")
SELECTS_ON = {
    "val_few_shot": "few-shot validation",
    "validation_free": "nothing, by protocol",
}
"""What the ways of selection that are defaults look at."""
NEEDED = {
    "spatial": "spatial features",
    "unprojected": "features before the projection",
    "text_tower": "text tower",
    "raw_text": "unnormalised text",
    "prompt_text": "each prompt's text",
    "crops": "crops of the test image",
}
"""What a head may ask for that not every one does, by its name in the contract of heads."""
SEEN = {"image": [], "stream": ["the test images as a stream"], "set": ["all test images"]}
"""What a head looks at beside the image that it answers for."""


def main() -> None:
    """Read the command line and print the table."""
    argparse.ArgumentParser(prog="python -m src.methods", description=__doc__).parse_args()
    rows = [row(name) for name in names()]
    cells = [[Text(cell.strip("`")) for cell in one] for one in rows]
    print_rows([dict(zip(COLUMNS, one, strict=True)) for one in cells], COLUMNS[:1], COLUMNS, PROSE)


def names() -> list[str]:
    """List the methods, as `method=` takes them."""
    return sorted(path.stem for path in (CONFIG_DIR / "method").glob("*.yaml"))


def row(name: str) -> list[str]:
    """Describe one method, in the order of `COLUMNS`; `about` in its YAML says what code cannot."""
    cfg = compose([f"method={name}"])
    method = cfg.method
    about = method.about
    return [
        f"`{name}`",
        f"{about.venue} {about.year}",
        _needs(method),
        "by gradient" if method.training is not None else "no",
        SELECTS_ON.get(selection_of(cfg), "nothing"),
        about.authors_select_on,
        about.get("trained_parameters", "0"),
    ]


def _needs(method: DictConfig) -> str:
    head: Any = get_class(method.head._target_)
    asked = [NEEDED[name] for name in (*head.inputs, *head.given) if name in NEEDED]
    if method.support is None:
        images = "no labelled image"
    elif method.support.crops is None and "training" in method and method.training is None:
        images = "labelled images"
    else:
        images = "crops of labelled images"
    return ", ".join([images, *SEEN[head.sees], *asked])


def markdown(rows: list[list[str]]) -> str:
    """Write rows as a table in Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    run_command(main)
