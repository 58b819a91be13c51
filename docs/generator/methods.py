"""The methods: their table, and a page for each."""

import inspect
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf

from docs.generator.figures import citation, measured, published
from docs.generator.markdown import bullets, escape, fenced, from_docstring, table
from src.choices import leading_comment
from src.config import method_yaml
from src.files import CONFIG_DIR
from src.methods.__main__ import COLUMNS, markdown, names, row
from src.results.names import shown

METHODS_BEFORE = """\
`python -m src.methods` prints this table. What it says of the authors is what their released code
does; "never released" is said where there is none.
"""
METHODS_AFTER = """\
In the last column c is the number of classes, d the width of the joint space, n that of the support
images, w the width before the projection or of the text tower. On `dataset=precomputed` all methods
run that need neither the text tower nor features before the projection. The logits of
`kernel_ridge` are not probabilities: without `calibrate=temperature` its calibration error says
nothing.

[What was verified](../verified.md) says what the formulas rest on, and
[what was measured here](../results.md) compares the methods.
"""


def methods_index() -> str:
    """Write the page that lists the methods."""
    linked = [[f"[`{name}`]({name}.md)", *cells[1:]] for name, cells in _rows().items()]
    tree = "\n".join(names())
    return (
        f"# Methods\n\n{METHODS_BEFORE}\n{markdown(linked)}\n"
        f"{METHODS_AFTER}\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    )


def method_page(name: str) -> str:
    """Write the page of a method."""
    own = method_yaml(name)
    path = CONFIG_DIR / "method" / f"{name}.yaml"
    head: Any = get_class(own.head._target_)
    module = sys.modules[head.__module__]
    facts = list(zip(COLUMNS[1:], _rows()[name][1:], strict=True))
    rest = (module.__doc__ or "").partition("\n")[2].strip()
    out = [
        f"# {shown(name)} (`{name}`)",
        escape(leading_comment(path)),
        fenced(f"python -m src.run method={name} dataset={_example(name)}", "bash"),
        bullets(facts),
        "## What it computes",
        from_docstring(inspect.getdoc(head) or ""),
        from_docstring(rest) if rest else "",
        _bases(head),
        "## Settings",
        f"A setting is given as `method.head.NAME=VALUE`. This is `conf/method/{name}.yaml`:",
        fenced(path.read_text(), "yaml"),
        _extended(path),
        _arguments(head, own),
        _by_dataset(own),
        "## Published figures",
        published(name),
        "## Measured here",
        measured(name),
        "## How to cite",
        citation(name),
    ]  # fmt: skip
    return "\n\n".join(part.strip("\n") for part in out if part.strip()) + "\n"


def _example(name: str) -> str:
    """Name a dataset that the method runs on."""
    return "solids" if name == "pointclip" else "eurosat"


def _bases(head: Any) -> str:
    """Point to the method whose head this one extends."""
    base = head.__mro__[1]
    method = _heads().get(f"{base.__module__}.{base.__qualname__}")
    return f"It extends [`{method}`]({method}.md)." if method else ""


@cache
def _heads() -> dict[str, str]:
    """Give the first method of each head."""
    return {method_yaml(name).head._target_: name for name in reversed(names())}


@cache
def _rows() -> dict[str, list[str]]:
    """Give each method's row of the table, for which a whole configuration is composed."""
    return {name: row(name) for name in names()}


def _extended(path: Path) -> str:
    """Point to the YAML that this one extends."""
    text: Any = OmegaConf.load(path)
    extended = [one for one in text.get("defaults", []) if isinstance(one, str) and one != "_self_"]
    links = ", ".join(f"[`{one}`]({one}.md)" for one in extended)
    return f"What it does not say is as in {links}." if links else ""


def _arguments(head: Any, own: Any) -> str:
    """Write the head's settings with their defaults and what its constructor says of them."""
    settings = OmegaConf.to_container(own.head, resolve=False)
    assert isinstance(settings, dict)
    said = _said_of_arguments(head.__init__)
    rows = [
        [f"`{key!s}`", _default(value), escape(said.get(str(key), ""))]
        for key, value in settings.items()
        if key != "_target_"
    ]
    return table(["`method.head.`", "default", "what it is"], rows) if rows else ""


def _default(value: Any) -> str:
    """Write a default; of one that is looked up, the value where no table has another one."""
    if isinstance(value, str) and (found := re.fullmatch(r"\$\{settings:\w+,(.*)\}", value)):
        return f"{found[1]}, or by dataset"
    return f"`{json.dumps(value, ensure_ascii=False).strip(chr(34))}`"


def _said_of_arguments(function: Any) -> dict[str, str]:
    text = from_docstring(inspect.getdoc(function) or "").partition("**Arguments**")[2]
    return dict(re.findall(r"^- `(\w+)`: (.*)$", text.partition("\n**")[0], re.MULTILINE))


def _by_dataset(own: Any) -> str:
    tables = ", ".join(f"`conf/settings/{one}.yaml`" for one in own.get("settings") or [])
    if not tables:
        return ""
    return (
        f"Values by dataset and backbone are in {tables}. `selection=validation_free` does not "
        "look there, and what you type counts more."
    )
