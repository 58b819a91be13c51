"""`python -m src.prepare dataset=eurosat,dtd`: fetch datasets, and check that they are whole.

Imports no torch.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import track
from rich.table import Table

from src.command_line import run_command
from src.config import build, compose
from src.data.check import MISSING, DatasetFiles, distinct, examine, kind, leaked, wrong_counts
from src.data.download import Download, fetch, verify
from src.data.images import ImageDataset, ImageFiles, Splits
from src.data.point_clouds import PointClouds
from src.data.rows import Rows
from src.data.webdataset import snapshot
from src.errors import UserError
from src.files import CONFIG_DIR

ALL = "all"
"""Value of `dataset` that stands for every dataset whose YAML says where its files come from."""

_SHOWN = 10
"""How many of the missing images `prepare` names."""

_EPILOG = """\
dataset=all stands for every dataset that can be fetched.

With --check, stdout holds one line for each image that is missing, cannot be
decoded, or is listed by the test split and another one: its path, a tab, and
what is wrong. A point cloud's path is that of its file, a colon, and its row
there. The table goes to stderr, so

  python -m src.prepare dataset=eurosat --check | cut -f1

lists the paths alone. The exit code is 2 if anything is wrong.
"""


def main() -> None:
    """Prepare or check one dataset after another; if one fails, the others are still done.

    Raises:
        UserError: something is missing or wrong. The message says, for every dataset, what it is
            and how to mend it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m src.prepare",
        description="Fetch datasets, and check that nothing is missing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "settings", nargs="*", help="as src.run takes them: dataset=eurosat,dtd paths.data=data"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="fetch and change nothing; compare with what was published, and read every image or "
        "point cloud",
    )
    arguments = parser.parse_intermixed_args()
    if arguments.check:
        os.environ["HF_HUB_OFFLINE"] = "1"  # the Hub's libraries read it when they are imported
    failures = []
    for dataset in _chosen(arguments.settings):
        try:
            (check if arguments.check else prepare)(dataset)
        except UserError as error:
            failures.append(f"{dataset.name}: {error}")
    if failures:
        raise UserError("\n".join(failures))


def prepare(dataset: DictConfig) -> None:
    """Fetch what the YAML of `dataset` lists, and print what each split holds.

    `downloads` is fetched (see `Download`), and into the dataset's `path` what `snapshot` names: a
    `repository` of the Hugging Face Hub and its `revision`. `by_hand` lists what only the user can
    bring: `to`, its path below the dataset's root, and `where`, a sentence or an address.

    Raises:
        UserError: downloads failed or something is to be brought by hand (the message names them
            all), the reader found the dataset unusable, or images are missing.
    """
    if _is_precomputed(dataset):
        print(f"{dataset.name}: features that exist already need no preparing.")
        return
    source = dataset.get("snapshot")
    if source and dataset.task is not None:  # The reader says that one must be named.
        snapshot.fetch(source.repository, source.revision, Path(dataset.path))
    downloads = _downloads(dataset)
    failures = []
    for download in downloads:
        try:
            fetch(download, Path(dataset.reader.root))
        except UserError as error:
            failures.append(str(error))
    missing = _missing_by_hand(dataset)
    if failures:
        instead = [f"Instead of them, {missing}"] if missing else []
        raise UserError("\n  ".join(["these downloads failed:", *failures, *instead]))
    if missing:
        raise UserError(missing)
    content: ImageDataset | PointClouds = build(dataset.reader)
    Console().print(_table(dataset.name, content.splits))
    for note in getattr(content, "notes", ()):
        print(f"{dataset.name}: {note}")
    if isinstance(content, ImageFiles):
        _check_files(content, fetched=bool(downloads))
    elif isinstance(content, DatasetFiles):
        print(f"{dataset.name}: {content.root} is ready.")
    elif "root" not in dataset.reader:
        print(f"{dataset.name}: nothing needs preparing.")


def check(dataset: DictConfig) -> None:
    """Check the files of a dataset without fetching or changing anything.

    Plain files are compared with their checksums, splits with `totals` (the items of each and the
    number of `classes`) and `per_class` (the items of every class, by split) where the YAML of
    `dataset` has them, and every image or point cloud is read. Items with something wrong go to
    stdout, as `--help` says; a table of the splits and wrong counts go to stderr.

    Raises:
        UserError: the reader found the dataset unusable, or anything is wrong; the message has
            counts and remedies.
    """
    if _is_precomputed(dataset):
        print(f"{dataset.name}: features are checked by the run that reads them.", file=sys.stderr)
        return
    failures = []
    for download in _downloads(dataset):
        try:
            verify(download, Path(dataset.reader.root))
        except UserError as error:
            failures.append(str(error))
    try:
        content: ImageDataset | PointClouds = build(dataset.reader)
    except UserError as error:
        raise UserError("\n  ".join([*failures, str(error)])) from None
    if not isinstance(content, DatasetFiles):
        print(f"{dataset.name}: no files to check.", file=sys.stderr)
        return
    if by_hand := _missing_by_hand(dataset):
        failures.append(by_hand)
    failures += _check_items(dataset, content)
    if failures:
        raise UserError("\n  ".join(failures))
    print(f"{dataset.name}: nothing is wrong.", file=sys.stderr)


def _chosen(settings: Sequence[str]) -> list[DictConfig]:
    """Compose the settings of each dataset that `dataset=a,b` names."""
    given = [one.removeprefix("dataset=") for one in settings if one.startswith("dataset=")]
    others = [one for one in settings if not one.startswith("dataset=")]
    if not given:
        return [compose(others).dataset]
    names: list[str] = []
    for name in ",".join(given).split(","):
        names += _fetched() if name == ALL else [name]
    return [compose([f"dataset={name}", *others]).dataset for name in dict.fromkeys(names)]


def _fetched() -> list[str]:
    paths = sorted((CONFIG_DIR / "dataset").glob("*.yaml"))
    return [path.stem for path in paths if {"downloads", "by_hand"} & set(OmegaConf.load(path))]


def _is_precomputed(dataset: DictConfig) -> bool:
    target: str = dataset.reader["_target_"]
    return target.startswith("src.features.")


def _downloads(dataset: DictConfig) -> list[Download]:
    schema = OmegaConf.structured(Download)
    try:
        entries = [OmegaConf.merge(schema, entry) for entry in dataset.get("downloads") or []]
        return [cast(Download, OmegaConf.to_object(entry)) for entry in entries]
    except OmegaConfBaseException as error:
        raise UserError(f"dataset.downloads: {str(error).splitlines()[0]}.") from error


def _missing_by_hand(dataset: DictConfig) -> str | None:
    entries = [
        (Path(dataset.reader.root) / one.to, one.where) for one in dataset.get("by_hand") or []
    ]
    missing = [f"{target}: {where}" for target, where in entries if not target.exists()]
    return "\n  ".join(["these must be put there by hand:", *missing]) if missing else None


def _table(name: str, splits: Splits) -> Table:
    table = Table("split", "items", "classes", title=name)
    for split, items in splits.items():
        labels = items.labels.tolist() if isinstance(items, Rows) else [one.label for one in items]
        table.add_row(split, f"{len(items):,}", f"{len(set(labels)):,}")
    return table


def _check_files(images: ImageFiles, fetched: bool) -> None:
    keys = {item.key: None for items in images.splits.values() for item in items}
    missing = [path for path in map(images.root.joinpath, keys) if not path.is_file()]
    if not missing:
        return
    remedy = "Put them there" + (
        f", or move {images.root} away and run this again to fetch it." if fetched else "."
    )
    raise UserError(
        "\n  ".join(
            [
                f"{len(missing):,} of {len(keys):,} images are missing. {remedy}",
                *map(str, missing[:_SHOWN]),
                *(["..."] if len(missing) > _SHOWN else []),
            ]
        )
    )


def _check_items(dataset: DictConfig, content: DatasetFiles) -> list[str]:
    """Print what is wrong with the items; return a summary and the remedies."""
    totals, per_class = (dict(dataset.get(key) or {}) for key in ("totals", "per_class"))
    counts = wrong_counts(content, totals, per_class)
    leaks = leaked(content)
    bad = _bad_items(content, dataset.name)
    items = distinct(content)
    for key, problem in [*bad.items(), *leaks.items()]:
        print(f"{content.where(items[key])}\t{problem}")
    Console(stderr=True).print(_check_table(dataset.name, content, totals, bad))
    for line in counts:
        print(line, file=sys.stderr)
    failures, noun = [], kind(content).noun
    if counts:
        failures.append(
            f"{len(counts):,} of the counts above are not the published ones: files were added to "
            f"{content.root}, or are missing there."
        )
    if leaks:
        failures.append(
            f"{len(leaks):,} test {noun} are listed by another split too: list each once, or what "
            "is trained and selected on is also measured on."
        )
    if bad:
        missing = sum(problem == MISSING for problem in bad.values())
        failures.append(
            f"{missing:,} missing and {len(bad) - missing:,} damaged of "
            f"{len(distinct(content)):,} {noun}. {_remedy(dataset, content)}"
        )
    return failures


def _bad_items(content: DatasetFiles, name: str) -> dict[str, str]:
    """Read all items; return what is wrong with the bad ones, by key."""
    items = distinct(content)
    console = Console(stderr=True)
    states = track(
        examine(content, items.values()),
        f"reading {name}",
        total=len(items),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    return {key: problem for key, problem in states if problem is not None}


def _check_table(
    name: str, content: DatasetFiles, totals: Mapping[str, int], bad: Mapping[str, str]
) -> Table:
    table = Table("split", title=name)
    columns = [kind(content).noun, "published", "classes", "missing", "damaged"]
    for column in columns:
        if totals or column != "published":
            table.add_column(column, justify="right")
    for split, items in content.splits.items():
        problems = [bad[item.key] for item in items if item.key in bad]
        missing = problems.count(MISSING)
        published = totals.get(split)
        cells = [
            _cell(len(items), wrong=published not in (None, len(items))),
            *(["–" if published is None else f"{published:,}"] if totals else []),
            f"{len({item.label for item in items}):,}",
            _cell(missing, wrong=missing > 0),
            _cell(len(problems) - missing, wrong=len(problems) > missing),
        ]
        table.add_row(split, *cells)
    return table


def _cell(number: int, wrong: bool) -> str:
    return f"[bold red]{number:,}[/]" if wrong else f"{number:,}"


def _remedy(dataset: DictConfig, content: DatasetFiles) -> str:
    if not dataset.get("downloads"):
        return f"Put intact copies there{kind(content).unless_mended}."
    return (
        f"Put intact copies there, or move {content.root} away and run `python -m src.prepare "
        f"dataset={dataset.name}` to fetch it again."
    )


if __name__ == "__main__":
    run_command(main)
