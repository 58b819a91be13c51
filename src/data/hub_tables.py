"""Where the tables of `dataset=hub` come from: the Hugging Face Hub, or a folder of the user.

All are Arrow files in the end, which the library `datasets` maps into memory. Of the Hub, what is
in the library's cache is used without a request; `dataset.revision` asks for another commit.
"""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from src.data.hub_cards import CARD, brief, choose, configurations, converted_by_hub
from src.data.text_files import listing
from src.errors import UserError
from src.masking import masked
from src.quiet import quiet

log = logging.getLogger(__name__)

NAME = re.compile(r"(\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", re.ASCII)
"""Of a dataset of the Hub; a few old ones have no owner."""
COMMIT = re.compile(r"[0-9a-f]{40}")
KINDS = {"parquet", "arrow", "imagefolder"}
"""The library's names of what is read here. It reads much else, none of which is images."""
PARQUET = ".parquet"
ENDINGS = {".arrow", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".zip"}
"""Of files on the Hub that are looked at where there is no Parquet file."""
TAIL_BYTES = 1 << 16
"""The end of a Parquet file says what is in it, and so tells many apart of one size and time."""
MEND = "Give a folder of Parquet files, or fetch the damaged ones again."
CARD_FILES = [CARD, "dataset_infos.json"]


class Tables(NamedTuple):
    """The splits of a dataset, by the names that its authors gave them.

    Attributes:
        splits: `datasets.Dataset`s, memory-mapped.
        identity: changes if the files do, and not with where the library keeps its cache.
        revision: the commit on the Hub; None for a folder.
    """

    splits: Mapping[str, Any]
    identity: str
    revision: str | None


def open_tables(path: str, config: str | None, revision: str | None) -> Tables:
    """Open a dataset of the Hub or of a folder; what is not in the cache yet is fetched.

    Args:
        path: `owner/name`, or a folder that exists: of Parquet files, or what the library's
            `save_to_disk` wrote.
        config: the configuration, where there are several.
        revision: a branch, tag or commit on the Hub; None: what is in the cache, or `main`.

    Raises:
        UserError: the extra is not installed, the dataset does not exist, cannot be fetched or
            read, or has other configurations.
    """
    if find_spec("datasets") is None:
        raise UserError('dataset=hub needs the package datasets: pip install "calipers[hub]"')
    folder = Path(path).expanduser()
    if not folder.exists():
        return _published(path, config, revision)
    if not folder.is_dir():
        raise UserError(f"{path} is a file: set dataset.path to its folder.")
    if revision is not None:
        raise UserError(
            f"dataset.revision={revision} is of a dataset on the Hub, and {path} is a folder: "
            "leave it out."
        )
    folder = folder.resolve()
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _saved(folder, config)
    return _converted(folder, config)


def _saved(folder: Path, config: str | None) -> Tables:
    """Open what `save_to_disk` wrote."""
    if config is not None:
        raise UserError(
            f"dataset.config={config}: {folder} holds one configuration, without a name. Leave it "
            "out."
        )
    with _library(str(folder)):
        import datasets

        found = datasets.load_from_disk(str(folder))
        if isinstance(found, datasets.Dataset):
            found = {str(found.split or "train"): found}
    files = [Path(one["filename"]) for each in found.values() for one in each.cache_files]
    own = "".join(each._fingerprint for each in found.values())
    return Tables(found, _digest(folder, files, own), None)


def _converted(folder: Path, config: str | None) -> Tables:
    """Open Parquet files, which the library converts into its cache once."""
    builder = _builder(folder, config, str(folder))
    if builder.name == "imagefolder":
        raise UserError(
            f"{folder} holds images, and no Parquet files: dataset=folder dataset.path={folder} "
            "reads them."
        )
    files = [Path(one) for some in builder.config.data_files.values() for one in some]
    identity = _digest(folder, files, str(config))
    # Its own name of the place depends on the files' paths and times only, not on their sizes.
    place = hashlib.sha256(f"{builder.cache_dir}\0{identity}".encode()).hexdigest()[:32]
    target = _cache() / "folders" / place
    _prepare(builder, target, str(folder))
    return Tables(_read(target), identity, None)


def _digest(folder: Path, files: Iterable[Path], own: str) -> str:
    """Hash the files' paths below `folder`, sizes, times and last bytes."""
    digest = hashlib.sha256(f"{own}\0".encode())
    for file in files:
        found = file.stat()
        key = os.path.relpath(file, folder)
        digest.update(f"{key}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
        with file.open("rb") as content:
            content.seek(max(0, found.st_size - TAIL_BYTES))
            digest.update(content.read())
    return digest.hexdigest()


def _published(path: str, config: str | None, revision: str | None) -> Tables:
    _check_name(path)
    commit = _known_commit(path, revision or "main")
    target = None if commit is None else _target(path, config, commit)
    if target is None or not (target / "dataset_info.json").is_file():
        folder = _fetch(path, config, revision or "main")
        commit = folder.name
        target = _target(path, config, commit)
        _prepare(_builder(folder, config, path), target, path)
    return Tables(_read(target), f"{path}@{commit} {config}", commit)


def _check_name(path: str) -> None:
    if not NAME.fullmatch(path) or path.endswith(PARQUET):
        raise UserError(
            f"the folder {path} is missing, and no dataset of the Hub has such a name: set "
            "dataset.path to owner/name, or to a folder of Parquet files."
        )


def _cache() -> Path:
    from datasets import config

    return Path(config.HF_DATASETS_CACHE).expanduser() / "calipers"


def _target(path: str, config: str | None, commit: str) -> Path:
    """Name the folder of the Arrow files of a commit."""
    name = "".join(one if re.match(r"[\w.-]", one) else f"%{ord(one):x}" for one in config or "%")
    return _cache() / path.replace("/", "___") / name / commit


def _known_commit(path: str, revision: str) -> str | None:
    """Look up in the Hub's cache which commit a branch or tag was when it was fetched last."""
    if COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import constants

    name = f"datasets--{path.replace('/', '--')}"
    try:
        found = Path(constants.HF_HUB_CACHE, name, "refs", revision).read_text().strip()
    except (OSError, ValueError):
        return None
    return found if COMMIT.fullmatch(found) else None


def _fetch(path: str, config: str | None, revision: str) -> Path:
    """Fetch the files of one configuration into the Hub's cache; return the commit's folder."""
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    address = masked(f"{constants.ENDPOINT}/datasets/{path}")
    log.info("fetching %s", address)
    try:
        with _hushed():
            about = HfApi().dataset_info(path, revision=revision)
            names = [one.rfilename for one in about.siblings or []]
            configs = converted_by_hub(names)
            if CARD in names:
                card = hf_hub_download(path, CARD, repo_type="dataset", revision=about.sha)
                configs = configurations(Path(card))
            _, files = choose(configs, config, path)
            patterns = [*chain(*files.values())] if files else _patterns(names, path)
            return Path(
                snapshot_download(
                    path,
                    repo_type="dataset",
                    revision=revision,
                    allow_patterns=[*CARD_FILES, *patterns],
                )
            ).resolve()
    except UserError:
        raise
    except GatedRepoError as error:
        raise UserError(
            f"{address} is open only to those who accepted its terms: do so there, and log in "
            f"with `hf auth login`, or set HF_TOKEN. ({brief(error)})"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{address} has no revision {revision}: correct dataset.revision, or leave it out."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no {address}, or it is not public, and there is no folder {path}: correct "
            "dataset.path, or log in with `hf auth login`."
        ) from error
    except OSError as error:
        if error.errno is not None and error.filename is not None:  # as on a full disk
            raise
        raise _no_network(path, error) from error
    except Exception as error:  # A network can make a client raise anything.
        raise _no_network(path, error) from error


def _no_network(path: str, error: BaseException) -> UserError:
    return UserError(
        f"cannot fetch the dataset {path}. Where there is a network, run `python -m src.prepare "
        f"dataset=hub dataset.path={path}`, or `hf download --repo-type dataset {path} --local-dir "
        f"FOLDER`, and set dataset.path=FOLDER here. ({brief(error)})"
    )


def _patterns(names: Iterable[str], path: str) -> list[str]:
    """Choose the files where the card names none."""
    endings = {PurePosixPath(name).suffix.lower() for name in names}
    if PARQUET in endings:
        return [f"*{PARQUET}"]
    if endings & ENDINGS:
        return ["*"]
    instead = " Shards (.tar) are read by dataset=webdataset." if ".tar" in endings else ""
    raise UserError(
        f"{path} on the Hub holds neither Parquet files nor images; its files end in "
        f"{', '.join(sorted(filter(None, endings))) or 'nothing'}.{instead} "
        "dataset.revision=refs/convert/parquet may hold what the Hub made of them."
    )


def _builder(folder: Path, config: str | None, origin: str) -> Any:
    """Make the library's builder of the files in `folder`."""
    if (folder / CARD).is_file():
        configs = configurations(folder / CARD)
    else:
        there = folder.rglob(f"*{PARQUET}")
        configs = converted_by_hub([path.relative_to(folder).as_posix() for path in there])
    name, files = choose(configs, config, origin)
    with _library(origin):
        import datasets

        if files is None or (len(configs.files) == 1 and (folder / CARD).is_file()):
            builder = datasets.load_dataset_builder(str(folder), name=name)
        else:  # by its name, the library would look at the files of the others, too
            about = datasets.info.DatasetInfosDict.from_directory(str(folder)).get(name)
            builder = datasets.load_dataset_builder(
                str(folder), data_files=dict(files), features=about and about.features
            )
    if builder.name not in KINDS:
        raise UserError(
            f"{origin} holds neither Parquet files nor images: the library reads it as "
            f"{builder.name!r}."
        )
    for split, found in builder.config.data_files.items():
        for one in found:
            if not Path(os.path.normpath(one)).is_relative_to(folder):
                raise UserError(f"{origin} names a file elsewhere, {one}: it is not read.")
        _check_whole(found, str(split), origin)
    if files is None and builder.name == "parquet":
        _say_left_out(
            folder,
            {Path(one) for some in builder.config.data_files.values() for one in some},
            origin,
        )
    return builder


def _say_left_out(folder: Path, files: set[Path], origin: str) -> None:
    """Name the Parquet files that belong to no split by their names."""
    there = (path for path in folder.rglob(f"*{PARQUET}") if path not in files)
    names = sorted(str(path.relative_to(folder)) for path in there)
    if names := [name for name in names if not name.startswith(".")]:
        log.warning("%s: left out, as their names name no split: %s", origin, listing(names))


def _check_whole(files: Iterable[str], split: str, origin: str) -> None:
    """Check that none is missing of files that are called `...-00000-of-00002...`.

    Raises:
        UserError: one is.
    """
    numbers: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if match := re.search(r"^(.*)-(\d{5})-of-(\d{5})", Path(file).name):
            numbers.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (name, total), there in numbers.items():
        if lacking := sorted(set(range(total)) - there):
            raise UserError(
                f"{origin}, split {split!r}: of {total:,} files {len(lacking):,} are missing, the "
                f"first one {name}-{lacking[0]:05d}-of-{total:05d}. Fetch them, too."
            )


def _prepare(builder: Any, target: Path, origin: str) -> None:
    """Convert the files into Arrow files in `target`, unless this was done or is being done."""
    with _library(origin):
        builder.download_and_prepare(output_dir=str(target))


def _read(folder: Path) -> dict[str, Any]:
    """Open what `_prepare` wrote."""
    mend = f"Remove {folder}, and it is made again."
    with _library(str(folder), mend):
        import datasets

        info = datasets.DatasetInfo.from_directory(str(folder))
        found = {}
        for split, about in (info.splits or {}).items():
            name = f"{info.dataset_name}-{split}"  # of one file, or followed by the number of each
            files = [*folder.glob(f"{name}.arrow"), *folder.glob(f"{name}-?????-of-?????.arrow")]
            parts = [
                datasets.Dataset.from_file(str(file), info=info.copy()) for file in sorted(files)
            ]
            if sum(map(len, parts)) != about.num_examples:
                raise ValueError(f"{split} has not the {about.num_examples:,} rows that it had")
            if parts:
                found[str(split)] = datasets.concatenate_datasets(parts)
        return found


@contextmanager
def _library(origin: str, mend: str = MEND) -> Iterator[None]:
    """Turn whatever the library says of unusable files into one message.

    Raises:
        UserError: it raised anything.
        OSError: the system refused to read or write.
    """
    try:
        with _hushed():
            yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.errno is not None and cause.filename is not None:
            raise cause from error
        raise UserError(f"{origin} cannot be read as a dataset: {brief(cause)}. {mend}") from error


@contextmanager
def _hushed() -> Iterator[None]:
    """Hide what the libraries log and warn about, and progress where there is no terminal."""
    with quiet():
        if not sys.stderr.isatty():
            import datasets
            from huggingface_hub.utils.tqdm import disable_progress_bars

            datasets.disable_progress_bars()
            disable_progress_bars()
        yield
