"""The manual and the README: every command in them can be typed, and what is generated is current.

Commands are read and composed, not carried out. A block that begins with `# not tested: WHY` is
left out.
"""

import argparse
import re
import shlex
import sys
import tomllib
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from docs import generate
from src.calipers import COMMANDS
from src.choices import groups
from src.config import arrange, as_lists, compose
from src.fidelity import OF_RUNS
from src.fidelity import Settings as FidelitySettings
from src.files import CONFIG_DIR, ROOT
from src.validation import validate

GENERATED = ROOT / "docs/methods"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SHELL = {"bash", "sh", "shell", "console"}
LEFT_OUT = "# not tested:"
STARTS = ("python -m ", "calipers ", "make ")
"""How commands begin where nothing says that a block is one of the shell."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TYPED = {"src.predict", "src.export", "src.demo"}
"""Commands whose settings are fields of a dataclass."""


class ParsedError(Exception):
    """A command line was read without a complaint."""


def commands(text):
    """List the commands of a page, in one line each and without comments."""
    found = []
    for _, language, block in BLOCK.findall(text):
        if block.startswith(LEFT_OUT):
            continue
        lines = re.sub(r"\s*\\\n\s*", " ", block).splitlines()
        shell = language in SHELL
        if shell or not language:
            found += [line for line in lines if shell or line.startswith((*STARTS, "M="))]
    found += re.findall(r"^    (python -m .*)$", text, re.MULTILINE)
    inline = re.findall(r"`(python -m [\w.]+ [^`|]+)[^`]*`", BLOCK.sub("", text))
    found += [line for line in inline if not re.search(r"\.\.\.|…|=NAME", line)]
    return [line for line in found if line.strip() and not line.startswith("#")]


def written():
    """Give each command once, with the page where it is first and variables replaced."""
    found = {}
    for page in PAGES:
        if page.parent != GENERATED:  # the test of what is generated looks at those
            for line in filled_in(commands(page.read_text())):
                found.setdefault(line, page.relative_to(ROOT).as_posix())
    return [pytest.param(line, id=f"{page}: {line}") for line, page in found.items()]


def filled_in(lines):
    """Write the values of a page's shell variables in the lines after them."""
    values = {}

    def value_of(found):
        return values.get(found[1], found[0])

    for line in lines:
        if assigned := re.fullmatch(r"(\w+)=(\S+)", line):
            values[assigned[1]] = re.sub(r"\$(\w+)", value_of, assigned[2])
        else:
            yield re.sub(r"\$(\w+)", value_of, line)


def test_commands_are_found():
    text = "```bash\na \\\n  b  # c\n# d\n```\n```\nmake x\nother\n```\n    python -m e\n"
    assert commands(text) == ["a b  # c", "make x", "python -m e"]
    assert commands("`python -m a`, `python -m a b=c`, `python -m a d | e`, `python -m a ...`") == [
        "python -m a b=c", "python -m a d ",
    ]  # fmt: skip
    assert list(filled_in(["M=a", "M=$M,b", "x y=$M '${z}'"])) == ["x y=a,b '${z}'"]
    assert commands("```bash\n# not tested: it takes a cluster\nsbatch x\n```\n") == []
    assert len(written()) > 50


@pytest.mark.parametrize("line", written())
def test_a_command_can_be_typed(line, monkeypatch):
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):  # a variable of the environment
        del words[0]
    match words:
        case ["calipers", name, *rest]:
            check(COMMANDS[name].module, rest, monkeypatch)
        case ["python", "-m", module, *rest]:
            check(module, rest, monkeypatch)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", package]:
            extras = re.search(r"\[(.*)\]", package)
            asked = set(extras[1].split(",")) if extras else set()
            assert asked <= set(PROJECT["optional-dependencies"])
        case ["find", *_, "wandb", "sync", "{}", "+"] | ["ray", "start" | "stop", *_]:
            pass  # others' commands
        case _:
            pytest.fail(f"mark the block with {LEFT_OUT!r}, or teach this test the command")


def check(module, words, monkeypatch):
    """Check the arguments of `python -m module`."""
    if module == "src.run":
        check_run(words)
    elif module in TYPED:
        settings = import_module(f"{module}.settings").Settings
        assert names_of(words) <= {one.name for one in fields(settings)}
    elif module == "src.features" and words[0] == "fidelity":
        own = {one.name for one in fields(FidelitySettings)}
        assert {name.split(".")[0] for name in names_of(words[1:])} <= {*own, *OF_RUNS}
        compose([word for word in words[1:] if re.split(r"[=.]", word)[0] in OF_RUNS])
    else:
        assert find_spec(module), module
        read_only(module, words, monkeypatch)
        if module == "src.prepare":
            for overrides in jobs([one for one in words if "=" in one and one != "dataset=all"]):
                compose(overrides)


def names_of(words):
    assert all("=" in word for word in words)
    return {word.partition("=")[0] for word in words}


def read_only(module, words, monkeypatch):
    """Start a command, and end it as soon as it has read its arguments."""
    for name in ("parse_args", "parse_intermixed_args"):
        reads = getattr(argparse.ArgumentParser, name)

        def read_and_stop(self, *given, reads=reads):
            reads(self, *given)
            raise ParsedError

        monkeypatch.setattr(argparse.ArgumentParser, name, read_and_stop)
    monkeypatch.setattr(sys, "argv", [module, *words])
    main = f"{module}.__main__" if find_spec(module).submodule_search_locations else module
    with pytest.raises(ParsedError):
        import_module(main).main()


def check_run(words):
    """Compose what a run, or each job of a sweep, would be."""
    if words and words[0].startswith("show="):
        assert {word.removeprefix("show=") for word in words} <= {*groups()}
        return
    # Three dots stand for what a command above them has.
    words = as_lists(arrange([word for word in words if word != "..."]), "eval_dataset", "tags")
    options = [word for word in words if word.startswith("-")]
    assert set(options) <= {"-m", "--multirun", "--help", "--cfg"}
    if "--help" not in options:
        for overrides in jobs(words[len(options) :]):
            validate(compose([*overrides, "paths.output=."]))


def jobs(overrides):
    """Give the first and the last job of a sweep; check that the choices of the others exist."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    first, last = [], []
    for one in parsed:
        key = one.input_line.partition("=")[0]
        values = list(one.sweep_string_iterator()) if one.is_sweep_override() else []
        if values and (CONFIG_DIR / key).is_dir():
            assert set(values) <= {path.stem for path in (CONFIG_DIR / key).glob("*.yaml")}
        first.append(f"{key}={values[0]}" if values else one.input_line)
        last.append(f"{key}={values[-1]}" if values else one.input_line)
    return [first] if first == last else [first, last]


def test_what_is_generated_is_current():
    there = {page.relative_to(generate.DOCS).as_posix(): page.read_text() for page in PAGES[1:]}
    stale = [name for name, text in generate.pages().items() if there.get(name) != text]
    assert not stale, "`make docs` writes them again"
    assert not generate.superfluous()
    for name in generate.names():
        dataset = "solids" if name == "pointclip" else "eurosat"
        command = f"python -m src.run method={name} dataset={dataset}"
        assert commands(there[f"methods/{name}.md"]) == [command]
    validate(compose([*shlex.split(command)[3:], "paths.output=."]))


def test_every_method_can_be_cited():
    for name in generate.names():
        page = (generate.DOCS / f"methods/{name}.md").read_text()
        assert "```bibtex\n@" in page, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
