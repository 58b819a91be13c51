"""The Python interface, by the docstrings of what `src.api` offers."""

import ast
import inspect
from typing import Any

from hydra.utils import get_object

from docs.generator.markdown import fenced, from_docstring

API = (
    ("src.api", "read_folder", "src.data.folder.labelled"),
    ("src.api", "fit", "src.api.fit"),
    ("src.api", "load", "src.classifier.classifier.load"),
)
API_BEFORE = """\
[Classify new images](new_images.md) has an example, and `examples/first_steps.ipynb` shows all.
"""


def api() -> str:
    """Write the page of the Python interface."""
    module = get_object("src.api")
    out = ["# The Python interface", API_BEFORE, from_docstring(module.__doc__)]
    for place, name, target in API:
        out += [f"## `{place}.{name}`", *_described(get_object(target), name)]
    labelled, classifier = get_object("src.api.Labelled"), get_object("src.api.Classifier")
    out += ["## `Labelled`", from_docstring(inspect.getdoc(labelled) or "")]
    out += ["## `Classifier`", from_docstring(inspect.getdoc(classifier) or "")]
    for name, member in vars(classifier).items():
        if not name.startswith("_"):
            out += [f"### `Classifier.{name}`", *_described(member, name)]
    return "\n\n".join(one.strip("\n") for one in out) + "\n"


def _described(member: Any, name: str) -> list[str]:
    """Write a function's signature and docstring."""
    function = getattr(member, "fget", None) or getattr(member, "func", None) or member
    node = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    is_property = function is not member
    node.decorator_list, node.body, node.name = [], [ast.Pass()], name
    node.args.args = [one for one in node.args.args if one.arg != "self"]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if is_property:
        signature = f"{name}: {returns.removeprefix(' -> ')}"
    else:
        arguments = _arguments_of(node)
        one_line = f"{name}({', '.join(arguments)}){returns}"
        broken = "".join(f"    {one},\n" for one in arguments)
        signature = one_line if len(one_line) <= 90 else f"{name}(\n{broken}){returns}"
    return [fenced(signature, "python"), from_docstring(inspect.getdoc(function) or "")]


def _arguments_of(node: ast.FunctionDef) -> list[str]:
    """Split the arguments of a signature, at the commas between them."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    words = [_argument(*pair) for pair in zip(plain, defaults, strict=True)]
    if given.kwonlyargs:
        words.append("*")
    words += [_argument(*pair) for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return words


def _argument(one: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(one)
    return text if default is None else f"{text} = {ast.unparse(default)}"
