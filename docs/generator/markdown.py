"""Markdown: tables, lists, blocks, and docstrings as such."""

import inspect
import re
from collections.abc import Iterable, Sequence

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields")
"""Headings of docstrings that a list follows."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def bullets(facts: Iterable[Sequence[str]]) -> str:
    """Write pairs of a name and a text as a list."""
    return "".join(f"- {name}: {' '.join(text.split())}\n" for name, text in facts)


def fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def from_docstring(text: str) -> str:
    """Write a docstring as Markdown: what is indented as a block, sections as lists."""
    out: list[str] = []
    block: list[str] = []
    in_section = False
    for line in [*inspect.cleandoc(text).splitlines(), "end"]:
        indented = line.startswith("    ")
        if block and (indented or not line):
            block.append(line)
            continue
        if block:
            out += _items(block) if in_section else ["", *fenced(_dedent(block)).splitlines(), ""]
            block = []
        if indented:
            block = [line]
        elif (section := line.removesuffix(":")) in SECTIONS and line.endswith(":"):
            in_section = True
            out += ["", f"**{section.replace('Args', 'Arguments')}**", ""]
        else:
            in_section = False
            out.append(escape(line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out[:-1])).strip() + "\n"


def _dedent(block: Sequence[str]) -> str:
    return inspect.cleandoc("\n" + "\n".join(block)).rstrip()


def _items(block: Sequence[str]) -> list[str]:
    """Write the lines of a section as a list, each item in a line of its own."""
    items: list[str] = []
    for line in block:
        if line.startswith("     ") and items:
            items[-1] += " " + line.strip()
        elif line.strip():
            items.append(line.strip())
    named = (re.sub(r"^(\*{0,2}\w+): ", r"`\1`: ", item) for item in items)
    return [*(f"- {escape(item)}" for item in named), ""]


def escape(text: str) -> str:
    """Keep `<` and `*` of plain text from being read as HTML and emphasis."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else part.replace("<", "&lt;").replace("*", "\\*")
        for part in parts
    )
