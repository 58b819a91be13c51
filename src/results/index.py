"""The pages of reports, and one page that links several of them."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from src.errors import UserError
from src.files import replacing

log = logging.getLogger(__name__)

PAGE = "report.html"
ABOUT = "report.json"
"""What a report says of itself, beside its page."""
INDEX = "index.html"


class About(NamedTuple):
    """What a report is about.

    Attributes:
        subject: its datasets, backbones and methods.
        runs: how many there are.
        unfinished: how many were left out.
        begun: when they began.
        written: when the report was written.
    """

    subject: str
    runs: int
    unfinished: int
    begun: str
    written: str

    def text(self) -> str:
        """Write it as JSON."""
        return json.dumps(self._asdict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "About":
        """Read one `report.json`.

        Raises:
            UserError: it is damaged, or something else.
        """
        try:
            found = cls(**json.loads(path.read_text()))
            kinds = zip(found, cls.__annotations__.values(), strict=True)
            if not all(isinstance(value, kind) for value, kind in kinds):
                raise ValueError("a value is of another type")
        except (OSError, RecursionError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} does not belong to a report: {reason}.") from None
        return found


class Entry(NamedTuple):
    """A report in an index: the address of its page, its folder, and what it is about."""

    url: str
    folder: str
    about: About


def rendered(template: str, **values: Any) -> str:
    """Fill in one of the templates beside this module; all values are escaped."""
    loader = PackageLoader("src.results", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template).render(**values)


def write_index(folders: Sequence[Path], output: Path) -> Path:
    """Write a page into `output` that links every report below `folders`; returns its path.

    Links are relative: the page and the reports can be moved together.

    Raises:
        UserError: a folder is missing, or there is no report below any.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is missing: give folders below which there are reports.")
    entries = list(_entries(folders, output))
    if not entries:
        raise UserError(
            f"there is no report below {', '.join(map(str, folders))}: "
            "`python -m src.report DIR` writes one."
        )
    page = rendered("report.index.jinja", entries=entries)
    with replacing(output / INDEX) as temporary:
        temporary.write_text(page)
    return output / INDEX


def _entries(folders: Sequence[Path], output: Path) -> Iterator[Entry]:
    found = {path.resolve(): path for folder in folders for path in folder.rglob(ABOUT)}
    for path in sorted(found.values()):
        if not path.with_name(PAGE).is_file():
            continue
        try:
            about = About.read(path)
        except UserError as error:
            log.warning("%s It is left out.", error)
            continue
        page = os.path.relpath(path.with_name(PAGE), output)
        yield Entry(quote(Path(page).as_posix()), str(path.parent), about)
