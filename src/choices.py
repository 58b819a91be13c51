"""The choices of conf/: what each says of itself, and which one a mistyped name may mean."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from src.command_line import make_console
from src.errors import UserError
from src.files import CONFIG_DIR

RECIPES_GROUP = "experiment"
SENTENCE = re.compile(r".+?\w{2}[)\]%]?[.?](\s|$)")


def described(group: str) -> dict[str, str]:
    """Give each choice of a group with what its YAML says first, in one line.

    Raises:
        UserError: there is no such group.
    """
    paths = sorted((CONFIG_DIR / group).glob("*.yaml")) if group.isidentifier() else []
    if not paths:
        groups = sorted(path.name for path in CONFIG_DIR.iterdir() if path.is_dir())
        raise UserError(
            f"show={group}: there is no such group of choices. {near(group, groups)}There are "
            f"{', '.join(groups)}."
        )
    return {path.stem: leading_comment(path) or _model(path) for path in paths}


def _model(path: Path) -> str:
    """Say what a backbone is whose YAML says it by its settings."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    model = [content.get(key) for key in ("architecture", "pretrained")]
    return ", ".join(str(one) for one in model if one is not None)


def leading_comment(path: Path) -> str:
    """Join the lines of the comment that a YAML file begins with."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def show(group: str) -> None:
    """Print the choices of a group, a sentence each."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    sign = "+" if group == RECIPES_GROUP else ""
    for name, said in described(group).items():
        table.add_row(f"{sign}{group}={name}", _sentence(said))
    make_console().print(table)


def _sentence(said: str) -> str:
    """Take the first sentence; that of a recipe is the question that it asks."""
    said = said.removeprefix("Question: ").partition(" Command: ")[0]
    first = SENTENCE.match(said)
    return said if first is None else first[0].rstrip(". ")


def near(name: str, known: Sequence[str]) -> str:
    """Suggest what a name that is not known may mean; nothing if nothing is like it.

    Case and signs don't count: `ViT-B/32` means `vit_b32`.
    """
    plain = {_plain(one): one for one in reversed(known)}
    if same := plain.get(_plain(name)):
        return f"Did you mean {same}? "
    close = difflib.get_close_matches(_plain(name), list(plain), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(plain[one] for one in close)}? " if close else ""


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
