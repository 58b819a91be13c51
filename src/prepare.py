"""`python -m src.prepare dataset=eurosat,dtd`: fetch datasets, and check that they are whole.

Imports no torch.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from src.config import build, compose, run_command
from src.data.download import Download, fetch
from src.data.images import ImageDataset, ImageFiles, Splits
from src.data.point_clouds import PointClouds
from src.errors import UserError

_SHOWN = 10
"""How many of the missing images are named."""


def main() -> None:
    """Prepare one dataset after another; what fails does not keep the others from it.

    Raises:
        UserError: something is missing. The message says, for every dataset, what and where to
            get it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m src.prepare", description="Fetch datasets, and check that they are whole."
    )
    parser.add_argument("settings", nargs="*", help="e.g. dataset=eurosat,dtd paths.data=data")
    failures = []
    for dataset in [compose(one).dataset for one in _by_dataset(parser.parse_args().settings)]:
        try:
            prepare(dataset)
        except UserError as error:
            failures.append(f"{dataset.name}: {error}")
    if failures:
        raise UserError("\n".join(failures))


def prepare(dataset: DictConfig) -> None:
    """Fetch what the YAML of `dataset` lists, and print what each split holds.

    `downloads` is fetched (see `Download`). `by_hand` lists what only the user can bring: `to`, its
    path below the dataset's root, and `where`, a sentence or an address.

    Raises:
        UserError: downloads failed or something is to be brought by hand (the message names them
            all), the reader found the dataset unusable, or images are missing.
    """
    if dataset.reader["_target_"].startswith("src.features."):
        print(f"{dataset.name}: features that exist already need no preparing.")
        return
    downloads = _downloads(dataset)
    failures = []
    for download in downloads:
        try:
            fetch(download, Path(dataset.reader.root))
        except UserError as error:
            failures.append(str(error))
    if failures:
        raise UserError("\n  ".join(["these downloads failed:", *failures]))
    _check_by_hand(dataset)
    content: ImageDataset | PointClouds = build(dataset.reader)
    Console().print(_table(dataset.name, content.splits))
    if isinstance(content, ImageFiles):
        _check_files(content, fetched=bool(downloads))
    elif "root" not in dataset.reader:
        print(f"{dataset.name}: nothing needs preparing.")


def _by_dataset(settings: Sequence[str]) -> Iterable[list[str]]:
    """Split `dataset=a,b` into one list of settings for each dataset."""
    names = [one.removeprefix("dataset=") for one in settings if one.startswith("dataset=")]
    others = [one for one in settings if not one.startswith("dataset=")]
    if not names:
        return [others]
    return [[f"dataset={name}", *others] for one in names for name in one.split(",")]


def _downloads(dataset: DictConfig) -> list[Download]:
    schema = OmegaConf.structured(Download)
    try:
        entries = [OmegaConf.merge(schema, entry) for entry in dataset.get("downloads") or []]
        return [cast(Download, OmegaConf.to_object(entry)) for entry in entries]
    except OmegaConfBaseException as error:
        raise UserError(f"dataset.downloads: {str(error).splitlines()[0]}.") from error


def _check_by_hand(dataset: DictConfig) -> None:
    entries = [
        (Path(dataset.reader.root) / one.to, one.where) for one in dataset.get("by_hand") or []
    ]
    missing = [f"{target}: {where}" for target, where in entries if not target.exists()]
    if missing:
        raise UserError("\n  ".join(["these must be put there by hand:", *missing]))


def _table(name: str, splits: Splits) -> Table:
    table = Table("split", "items", "classes", title=name)
    for split, items in splits.items():
        table.add_row(split, f"{len(items):,}", f"{len({item.label for item in items}):,}")
    return table


def _check_files(images: ImageFiles, fetched: bool) -> None:
    keys = {item.key: None for items in images.splits.values() for item in items}
    missing = [path for path in map(images.root.joinpath, keys) if not path.is_file()]
    if not missing:
        return
    remedy = "Put them there" + (
        f", or move {images.root} away and run this again to fetch it anew." if fetched else "."
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


if __name__ == "__main__":
    run_command(main)
