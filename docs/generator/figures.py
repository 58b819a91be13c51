"""Figures: published, measured here, of benchmarks; and the papers that they belong to."""

import json
import re
from functools import cache
from typing import Any

from docs.generator.markdown import escape, fenced, table
from src.files import ROOT

DOCS = ROOT / "docs"
MEASURED = ("results.md", "unlabelled_images.md")
"""Pages with tables whose rows are methods."""
HEADINGS = ("what", "ours", "plain", "ratio or value (target)", "of the machine's limit")
"""Of the tables that `python -m benchmarks` prints."""
TRANSFERS = (("base_to_new", "base, new, H"), ("cross_dataset", "tested on this dataset"))
"""Protocols whose published figures are apart from the others, and what the figures are."""


@cache
def _record() -> Any:
    return json.loads((ROOT / "experiments/published.json").read_text())


def published(name: str) -> str:
    """Write the published figures of a method, a table for each backbone and source."""
    record, out = _record(), []
    for backbone, by_dataset in record["figures"].items():
        for source in record["sources"]:
            rows = [
                [dataset, *_by_shots(of[source][name])]
                for dataset, of in by_dataset.items()
                if name in of.get(source, {})
            ]
            if rows:
                heads = ["dataset", "0", *map(str, record["shots"])]
                used = [i for i in range(len(heads)) if any(cells[i] for cells in rows)]
                shown = ([cells[i] for i in used] for cells in rows)
                out += [_about(backbone, source), table([heads[i] for i in used], shown)]
    for protocol, what in TRANSFERS:
        for backbone, by_dataset in record[protocol].items():
            for source in record["sources"]:
                rows = [
                    [dataset, *_transferred(of[source][name])]
                    for dataset, of in by_dataset.items()
                    if name in of.get(source, {})
                ]
                if rows:
                    out += [f"`protocol={protocol}`, {_about(backbone, source)}",
                            table(["dataset", "shots", what], rows)]  # fmt: skip
    if not out:
        return "`experiments/published.json` has none."
    return (
        "Top-1 accuracy (%) by dataset and shots, from `experiments/published.json`."
        "\n\n" + "\n\n".join(one.strip("\n") for one in out)
    )


def _by_shots(figures: Any) -> list[str]:
    """Write figures by shots; those of a method without labelled images stand under 0."""
    if isinstance(figures, list):
        return ["", *("" if one is None else f"{one:.2f}" for one in figures)]
    if isinstance(figures, dict):
        shots = [0, *_record()["shots"]]
        return [f"{figures[str(k)]:.2f}" if str(k) in figures else "" for k in shots]
    return [f"{figures:.2f}", *[""] * len(_record()["shots"])]


def _transferred(figures: Any) -> list[str]:
    """Write the shots and the figures under a protocol that tests other classes or datasets."""
    shots, found = next(iter(figures.items())) if isinstance(figures, dict) else ("0", figures)
    several = found if isinstance(found, list) else [found]
    return [shots, ", ".join(f"{one:.2f}" for one in several)]


def _about(backbone: str, source: str) -> str:
    about = _record()["sources"][source]
    place, protocol = escape(about["place"]), escape(about["protocol"])
    text = f"`{backbone}`, source {source}: {place}. Protocol: {protocol}."
    if about["selected_on_test"]:
        text += f" Selected on the test split: {escape(str(about['selected_on_test']))}."
    return text


def measured(name: str) -> str:
    """Repeat a method's rows of the tables of measured figures."""
    out = []
    for page in MEASURED:
        for title, anchor, head, body in _tables(page):
            if rows := [line for line in body if line[0].strip("`").split(" (")[0] == name]:
                out += [f"[{title}](../{page}#{anchor}):", table(head, rows)]
    if not out:
        return "Nothing in the manual's tables."
    return "\n\n".join(one.strip("\n") for one in out)


@cache
def _tables(page: str) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """Find a page's tables: the heading above, its anchor, the head, and the rows."""
    found, title, lines = [], "", (DOCS / page).read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("#"):
            title = line.lstrip("# ")
        if re.fullmatch(r"\|[\s|:-]+\|", line):
            rows = []
            for below in lines[number + 1 :]:
                if not below.startswith("|"):
                    break
                rows.append([cell.strip() for cell in below.strip("|").split("|")])
            head = [cell.strip() for cell in lines[number - 1].strip("|").split("|")]
            anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            found.append((title, anchor, head, rows))
    return found


@cache
def _citations() -> dict[str, str]:
    """Read the entry of each method, without the line that says which methods it is for."""
    found = {}
    for entry in re.findall(r"^@.*?^\}$", (DOCS / "citations.bib").read_text(), re.M | re.S):
        keywords = re.search(r",\n\s*keywords\s*= \{(.*?)\}", entry, re.S)
        assert keywords, entry
        for name in re.split(r",\s*", keywords[1]):
            found[name] = entry.replace(keywords[0], "")
    return found


def citation(name: str) -> str:
    entry = _citations().get(name)
    return fenced(entry, "bibtex") if entry else "See the paper that is named at the top."


def benchmarks() -> str:
    """Write the tables of the last `make bench`, one for each machine, date and commit."""
    path = DOCS / "benchmarks.json"
    runs: dict[str, list[list[str]]] = {}
    for one in json.loads(path.read_text()).values() if path.is_file() else ():
        title = f"{one['machine']}, {one['date']}, commit {one['commit']}"
        runs.setdefault(title, []).extend(one["figures"])
    if not runs:
        return "No run has been recorded in the file yet: the figures below are older.\n"
    parts = [f"## {title}\n\n{table(HEADINGS, figures)}" for title, figures in runs.items()]
    return "\n".join(parts)
