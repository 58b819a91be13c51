"""`python -m docs.generate`: write the parts of the manual that conf/ and docstrings say already.

These are whole pages (one for each method, their table, and the Python interface) and the regions
of other pages that lie between `<!-- generated: NAME -->` and `<!-- end -->`. A test compares them
with what is there.
"""

import re
from collections.abc import Callable
from pathlib import Path

from docs.generator.api import api
from docs.generator.choices import backbones, choices, recipes
from docs.generator.datasets import dataset_sections, datasets
from docs.generator.figures import benchmarks
from docs.generator.methods import method_page, methods_index
from src.command_line import run_command
from src.files import ROOT
from src.methods.__main__ import names

DOCS = ROOT / "docs"
REGION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTICE = (
    "<!-- Written by `python -m docs.generate`: change conf/ or the docstrings instead. -->\n\n"
)
REGIONS: dict[str, Callable[[], str]] = {
    "backbones": backbones,
    "benchmarks": benchmarks,
    "callbacks": choices("callbacks", "callbacks"),
    "datasets": datasets,
    "dataset_sections": dataset_sections,
    "loggers": choices("logger", "logger"),
    "protocols": choices("protocol", "protocol"),
    "recipes": recipes,
    "selections": choices("selection", "selection"),
}
"""What stands between the marks of a region, by its name."""


def main() -> None:
    """Write every page that differs from what it should be."""
    for name, text in pages().items():
        path = DOCS / name
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"wrote docs/{name}")
    for path in superfluous():
        path.unlink()
        print(f"removed docs/{path.relative_to(DOCS)}")


def pages() -> dict[str, str]:
    """Give the text that each page with something generated in it should have, by its path."""
    whole = {
        "api.md": api(),
        "methods/index.md": methods_index(),
        **{f"methods/{name}.md": method_page(name) for name in names()},
    }
    partly = {}
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text()
        if path.name not in whole and REGION.search(text):
            partly[path.name] = REGION.sub(
                lambda found: f"{found[1]}{REGIONS[found[2]]()}{found[3]}", text
            )
    return {name: NOTICE + text for name, text in whole.items()} | partly


def superfluous() -> list[Path]:
    """List the pages of methods that there are no longer."""
    known = {"index", *names()}
    return [path for path in (DOCS / "methods").glob("*.md") if path.stem not in known]


if __name__ == "__main__":
    run_command(main)
