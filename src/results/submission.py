"""Results in a file that others can merge: a line of JSON per run, with what it was measured with.

Such files go from one machine to another, and are read from strangers. What is written names no
file, no folder and no user of the machine it comes from; what is read is believed in nothing that
can be looked up here, such as what was published.
"""

import json
import logging
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from src.config import WITHOUT_EFFECT
from src.errors import UserError
from src.files import replacing
from src.masking import masked_tree
from src.results.metrics import ALL
from src.results.published import published
from src.results.record import FILE, Result

log = logging.getLogger(__name__)

FORMAT = "calipers-result"
SUFFIX = ".jsonl"
LOCAL_DIR = "local-dir:"
ELSEWHERE = "…"
"""What stands in place of a path."""
LOOKED_UP = ("published", "published_by_source")
"""Fields of a record that a file does not have, for whoever reads it looks them up."""
COMMAND = ("python", "-m", "src.run")
FOLDERS = ("path", "dir", "root", "file", "folder")
"""What the keys of settings end in that name files."""
LONGEST_LINE = 1 << 16
LONGEST_COMMAND = 2_000
LONGEST_NAME = 100
"""Characters of a dataset's name, and of others that files and headings are made of."""
NAMES = ("dataset", "adapted_on", "backbone", "method", "selection", "protocol")
PATH = re.compile(
    r"(?:(?<![\w/.])(?:~\w*|\.{1,2})?/(?!/)|\bfile:|\b[A-Za-z]:[\\/](?!/))[^'\",;()\[\]{}]*"
)
"""A path that begins at the root, the home, this or the parent folder; no part of an address."""


class Submitted(NamedTuple):
    """A line that was read.

    Attributes:
        result: the run.
        file: where it stands.
        line: on which line, from 1.
    """

    result: Result
    file: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"


def submit(folders: Sequence[Path], file: Path) -> int:
    """Write every readable result below `folders` into `file`; returns how many.

    Raises:
        UserError: a folder is missing, or there is no result below any; or `file` is not called
            as such files are.
    """
    if file.suffix != SUFFIX:
        raise UserError(f"--submit-file {file}: give a name that ends in {SUFFIX}.")
    results = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is missing: give the output folder of runs or of a sweep.")
        for path in sorted(folder.rglob(FILE)):
            try:
                results.append(Result.read(path))
            except UserError as error:
                log.warning("%s It is left out.", error)
    if not results:
        raise UserError(f"there is no readable {FILE} below {', '.join(map(str, folders))}.")
    write(results, file)
    return len(results)


def write(results: Iterable[Result], file: Path) -> None:
    """Write runs into `file`, a line each, in the order in which they began."""
    ordered = sorted(results, key=lambda result: result.started_at)
    with replacing(file) as temporary:
        temporary.write_text("".join(f"{_line(result)}\n" for result in ordered))


def _line(result: Result) -> str:
    fields = {name: value for name, value in asdict(result).items() if name not in LOOKED_UP}
    content = {"format": FORMAT} | fields | {"command": _command(result.command)}
    return json.dumps(_without_paths(masked_tree(content)), ensure_ascii=False)


def _command(command: str) -> str:
    """Keep of a command what decides a run's metrics, without paths.

    Of a stranger's, nothing is kept that is no run, or that a shell or Hydra would run.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    harmful = len(command) > LONGEST_COMMAND or any("_target_" in word for word in words)
    if tuple(words[:3]) != COMMAND or harmful:
        return ""
    kept = [word for word in words[3:] if _key(word).partition(".")[0] not in WITHOUT_EFFECT]
    return shlex.join([*COMMAND, *map(_without_folder, kept)])


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _without_folder(override: str) -> str:
    value = override.partition("=")[2]
    if PATH.search(value):
        return f"{override.partition('=')[0]}={ELSEWHERE}"
    named = _key(override).endswith(FOLDERS)
    return override.replace(value, value.rpartition("/")[2]) if named and value else override


def _without_paths(node: Any) -> Any:
    match node:
        case dict():
            return {name: _without_paths(child) for name, child in node.items()}
        case list():
            return [_without_paths(child) for child in node]
        case str() if node.startswith(LOCAL_DIR):
            return LOCAL_DIR + re.split(r"[\\/]", node.rstrip("\\/"))[-1].removeprefix(LOCAL_DIR)
        case str():
            return PATH.sub(ELSEWHERE, node)
    return node


def read(file: Path) -> tuple[list[Submitted], str]:
    """Read the lines of a file.

    Returns:
        Those that are results, and one message about all others; empty if there are none.

    Raises:
        UserError: the file is missing or no text.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UserError(f"{file} cannot be read: {reason}.") from None
    found, wrong = [], {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(Submitted(_read(line, f"{file}, line {number}"), str(file), number))
        except UserError as error:
            wrong[number] = str(error)
    return found, _message(wrong)


def _message(wrong: Mapping[int, str]) -> str:
    if not wrong:
        return ""
    first, *others = wrong
    if not others:
        return wrong[first]
    return f"{wrong[first]} Nor are {len(others)} other lines: {_listed(others)}."


def _listed(numbers: Sequence[int], most: int = 10) -> str:
    named = ", ".join(map(str, numbers[:most]))
    return named if len(numbers) <= most else f"{named}, ..."


def _read(line: str, place: str) -> Result:
    if len(line) > LONGEST_LINE:
        raise UserError(f"{place} is not the result of a run: it is longer than any.")
    try:
        content = json.loads(line)
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f'it has no "format": "{FORMAT}", as --submit-file writes it')
        names = [content.get(name) for name in NAMES]
        if not all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in names):
            raise ValueError(f"{', '.join(NAMES)}: names of 1 to {LONGEST_NAME} characters")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not the result of a run: {error}.") from None
    result = Result.of(content | {"published": None, "published_by_source": {}}, place)
    _check(result, place)
    place_of = (result.dataset, result.method, result.shots, result.backbone, str(result.weights))
    figures = published(*place_of, protocol=result.protocol)
    return replace(
        result,
        published=next(iter(figures.values()), None),
        published_by_source=figures,
        command=_command(result.command),
    )


def _check(result: Result, place: str) -> None:
    """Check what a record's types do not say."""
    known = {metric.name: metric for metric in ALL}
    for name, value in result.metrics.items():
        if name in known and not math.isfinite(value):
            raise UserError(f"{place} is not the result of a run: {name} is {value}.")
    if result.shots < 0 or result.n_test < 1:
        raise UserError(
            f"{place} is not the result of a run: {result.shots} shots, {result.n_test} test "
            "images."
        )
