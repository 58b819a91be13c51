"""The choices of conf/: what each says of itself, and which one a mistyped name may mean."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from src.command_line import make_console
from src.errors import UserError
from src.files import CONFIG_DIR

RECIPES_GROUP = "experiment"
SENTENCE = re.compile(r".+?\w{2}[)\]%\"`]*[.?](\s|$)")
GAP = 2
"""Spaces between a choice and its sentence."""
LEAST = 32
"""How wide sentences must at least be to stand beside what they describe."""


def groups() -> list[str]:
    """List the groups of choices, each a folder of YAML files."""
    return sorted({path.parent.name for path in CONFIG_DIR.glob("*/*.yaml")})


def described(group: str) -> dict[str, str]:
    """Give each choice of a group with what its YAML says first, in one line.

    Raises:
        UserError: there is no such group.
    """
    paths = sorted((CONFIG_DIR / group).glob("*.yaml")) if group.isidentifier() else []
    if not paths:
        known = groups()
        raise UserError(
            f"show={group}: there is no such group of choices. {near(group, known)}There are "
            f"{', '.join(known)}."
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
    """Print the choices of a group, a sentence each: beside it, or below it where that is short."""
    sign = "+" if group == RECIPES_GROUP else ""
    lines = {f"{sign}{group}={name}": _sentence(said) for name, said in described(group).items()}
    console = make_console()
    longest = max(len(word) for sentence in lines.values() for word in sentence.split())
    if console.width - GAP - max(map(len, lines)) < max(LEAST, longest):
        for choice, sentence in lines.items():
            console.print(Text(choice), soft_wrap=True)
            console.print(Padding(Text(sentence), (0, 0, 0, 4)))
        return
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    for choice, sentence in lines.items():
        table.add_row(Text(choice), Text(sentence))  # brackets are no markup
    console.print(table)


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
