"""`eval "$(python -m src.completion bash)"`: the shell completes commands, choices and settings.

The shell asks `python -m src.completion query` at each tab. Imports no torch, and Hydra only for
the names of settings: choices are the files of `conf/`.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from src.calipers import COMMANDS
from src.choices import RECIPES_GROUP, groups
from src.command_line import run_command
from src.files import CONFIG_DIR
from src.quiet import quiet

LAUNCHERS = ("basic", "joblib", "submitit_local", "submitit_slurm")
OF_DATASETS = ("dataset", "eval_dataset")
OPTIONS = ("-m", "--multirun", "--help", "--cfg")
TYPED = ("src.predict", "src.export", "src.demo")
"""Commands whose settings are fields of a dataclass."""

BASH = """\
if [ -n "$ZSH_VERSION" ]; then
    autoload -Uz compinit bashcompinit
    whence -w compdef > /dev/null || compinit
    bashcompinit
fi
_calipers() {{
    local line="${{COMP_LINE:0:$COMP_POINT}}" IFS=$'\\n'
    COMPREPLY=()
    case "$line" in
    *calipers*|*" -m s"*)
        COMPREPLY=($(CALIPERS_LINE="$line" CALIPERS_BREAKS="$COMP_WORDBREAKS" \\
            {query} 2> /dev/null))
    esac
}}
complete -o bashdefault -o default -o nospace -F _calipers calipers python python3
"""
FISH = """\
function _calipers
    CALIPERS_LINE=(commandline -cp | string collect) {query} 2> /dev/null
end
complete -c calipers -a '(_calipers)'
complete -c python -n 'commandline -cp | string match -q "* -m s*"' -a '(_calipers)'
complete -c python3 -n 'commandline -cp | string match -q "* -m s*"' -a '(_calipers)'
"""
SCRIPTS = {"bash": BASH, "zsh": BASH, "fish": FISH}
"""Where nothing is found, and after another `python`, files are completed as without them.

A shell may take `=` and `:` for the ends of words: it is told the rest of a word only.
"""


def main() -> None:
    """Print what a shell evaluates; or, for `query`, what the line may go on with."""
    if sys.argv[1:] == ["query"]:
        breaks = os.environ.get("CALIPERS_BREAKS", "")
        print(*answers(os.environ.get("CALIPERS_LINE", ""), breaks), sep="\n")
        return
    parser = argparse.ArgumentParser(
        prog="python -m src.completion",
        description="Print what makes a shell complete commands, for the shell to evaluate.",
    )
    parser.add_argument("shell", choices=SCRIPTS)
    query = f"{shlex.quote(sys.executable)} -m src.completion query"
    print(SCRIPTS[parser.parse_args().shell].format(query=query), end="")


def answers(line: str, breaks: str = "") -> list[str]:
    """List what the last word of a line may be, from the last of its `breaks` on."""
    *words, word = line.split() if line[-1:].strip() else [*line.split(), ""]
    done = max((word.rfind(one) + 1 for one in breaks), default=0)
    found = candidates(words, word)
    return sorted({one[done:] for one in found if one.startswith(word)})


def candidates(words: Sequence[str], word: str) -> Iterable[str]:
    """List what may stand where `word` does, after other words; some may begin otherwise."""
    words = [*words]
    while words and re.match(r"\w+=", words[0]):  # a variable of the environment
        del words[0]
    match [Path(words[0]).name, *words[1:]] if words else []:
        case [_, "-m", module, *given]:
            return _arguments(module, given, word)
        case [_, "-m"]:
            return [command.module for command in COMMANDS.values()]
        case ["calipers"]:
            return COMMANDS
        case ["calipers", name, *given] if name in COMMANDS:
            return _arguments(COMMANDS[name].module, given, word)
    return []


def _arguments(module: str, given: Sequence[str], word: str) -> Iterable[str]:
    if module in TYPED and "=" not in word:
        settings = import_module(f"{module}.settings").Settings
        return [f"{one.name}=" for one in fields(settings)]
    if module not in ("src.run", "src.prepare"):
        return []
    if word.startswith("-"):
        return OPTIONS if module == "src.run" else ["--check", "--help"]
    sign, name, equals, value = _parts(word)
    if equals:
        before = value[: value.rfind(",") + 1]  # of several, the last is typed
        return [f"{sign}{name}={before}{one}" for one in _values(name, given)]
    if module == "src.prepare":
        return ["dataset=", *_settings(name, given)]
    named = [f"{one}=" for one in (*groups(), "hydra/launcher", "show")]
    return [f"{sign}{one}" for one in (*named, *_settings(name, given))] + [f"+{RECIPES_GROUP}="]


def _parts(word: str) -> tuple[str, str, str, str]:
    sign = re.match(r"[+~]*", word)
    start = sign.end() if sign else 0
    return word[:start], *word[start:].partition("=")


def _choices(group: str) -> list[str]:
    return [path.stem for path in (CONFIG_DIR / group).glob("*.yaml")]


def _values(name: str, given: Sequence[str]) -> list[str]:
    """List the choices of a group or the values of a setting, as far as they are known."""
    if name == "show":
        return groups()
    if name == "hydra/launcher":
        return sorted({*LAUNCHERS, *_choices(name)})
    if name in OF_DATASETS:
        return _choices("dataset")
    if name in groups():
        return _choices(name)
    value = _config(given, name)
    return ["true", "false"] if isinstance(value, bool) else [] if value is None else [str(value)]


def _settings(name: str, given: Sequence[str]) -> list[str]:
    """List the settings beside `name`, as `method.head.beta=`, of the run that is typed."""
    parent, dot, _ = name.rpartition(".")
    value = _config(given, parent)
    if not isinstance(value, dict):
        return []
    inside = {key: "." if isinstance(one, dict) else "=" for key, one in value.items()}
    return [f"{parent}{dot}{key}{end}" for key, end in inside.items()]


def _config(given: Sequence[str], name: str) -> object:
    """Give a part of the configuration that is typed; of a sweep, that of its first job."""
    from omegaconf import OmegaConf

    from src.config import compose

    first = [re.sub(r",.*", "", one) for one in given if "=" in one and not one.startswith("show=")]
    for overrides in (first, []):
        try:
            with quiet():
                composed = compose(overrides)
        except Exception:  # noqa: S112  what is typed so far need not make sense
            continue
        part = OmegaConf.select(composed, name) if name else composed
        return OmegaConf.to_container(part) if OmegaConf.is_config(part) else part
    return None


if __name__ == "__main__":
    run_command(main)
