"""How methods are called where people read: in a page and in a paper, by their configurations.

What is typed, in a command line and in a record, is their name; tables that are read by programs,
and the terminal, have that.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from src.files import CONFIG_DIR

NAME = re.compile(r"\w+")


def shown(label: str) -> str:
    """Write a label with the title of its method: `tip_adapter_f (val)` as `Tip-Adapter-F (val)`.

    A method without a title, such as one that only its author has, keeps its name.
    """
    name = NAME.match(label)
    if name is None:
        return label
    return str(_about().get(name[0], {}).get("title", name[0])) + label[name.end() :]


def citation(label: str) -> str:
    """Give the key of the publication of a label's method; empty if none is known."""
    name = NAME.match(label)
    return "" if name is None else str(_about().get(name[0], {}).get("cite", ""))


@cache
def _about() -> Mapping[str, Mapping[str, Any]]:
    """Read what each configuration says about its method, by the method's name."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    files = sorted((CONFIG_DIR / "method").glob("*.yaml"))
    read = [yaml.load(file.read_text(), Loader=loader) for file in files]  # noqa: S506
    return {one["name"]: one.get("about", {}) for one in read if "name" in one}
