"""A dataset's repository on the Hugging Face Hub, fetched into a folder as it is."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from src.errors import UserError
from src.files import write_json

SOURCE = "source.json"
"""Says where a folder's content came from; it is written last, so that one without is fetched."""


@dataclass(frozen=True)
class Source:
    """What was fetched.

    Attributes:
        repository: `owner/name`.
        revision: what was asked for: a branch, a tag or a commit; None: the newest.
        commit: what that was.
    """

    repository: str
    revision: str | None
    commit: str


def fetch(repository: str, revision: str | None, folder: Path) -> None:
    """Fetch all files of a dataset's repository, unless they are there; one at a time does.

    What an interrupted fetching brought is kept. A folder that was filled by hand, and holds no
    `source.json`, is left as it is.

    Raises:
        UserError: there is no such dataset or revision, it is not open to everybody, or the Hub
            cannot be reached.
    """
    unfinished = folder / f".{SOURCE}.fetching"
    if _is_whole(repository, revision, folder, unfinished):
        return
    with _network(repository, revision, folder):
        commit = _commit(repository, revision)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _is_whole(repository, commit, folder, unfinished):
            return  # Another process was faster.
        unfinished.touch()
        with _network(repository, revision, folder):
            _download(repository, commit, folder)
        write_json(folder / SOURCE, asdict(Source(repository, revision, commit)))
        unfinished.unlink()


def check(folder: Path, revision: str | None, fetch: str) -> Source | None:
    """Say what a folder's content is; None: it was put there by hand.

    Args:
        folder: the dataset's.
        revision: the one that it must be of; None: any.
        fetch: how it is fetched, a sentence.

    Raises:
        UserError: it is of another revision, or was not fetched to the end.
    """
    if (folder / f".{SOURCE}.fetching").exists():
        raise UserError(f"{folder} was not fetched to its end. {fetch}.")
    source = _source(folder)
    if source and revision is not None and revision not in (source.commit, source.revision):
        raise UserError(
            f"{folder} holds revision {source.commit} of {source.repository}, and "
            f"dataset.revision={revision}. {fetch} dataset.revision={revision}"
        )
    return source


def _is_whole(repository: str, revision: str | None, folder: Path, unfinished: Path) -> bool:
    if unfinished.exists() or not folder.is_dir() or not any(folder.iterdir()):
        return False
    source = _source(folder)
    if source is None:
        return True
    asked = revision in (None, source.commit, source.revision)
    return source.repository == repository and asked


def _source(folder: Path) -> Source | None:
    try:
        return Source(**json.loads((folder / SOURCE).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / SOURCE} is damaged: remove {folder}, and fetch it.") from error


def _commit(repository: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(repository, revision=revision, timeout=30).sha
    if not commit:
        raise ValueError("the Hub says no commit")
    return commit


def _download(repository: str, commit: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(repository, repo_type="dataset", revision=commit, local_dir=folder)


@contextmanager
def _network(repository: str, revision: str | None, folder: Path) -> Iterator[None]:
    """Say what a user can do about a failure of the Hub or of the network."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    address = f"{constants.ENDPOINT}/datasets/{repository}"
    try:
        yield
    except HFValidationError as error:
        raise UserError(f"{repository!r} names no dataset: correct dataset.task.") from error
    except GatedRepoError as error:
        raise UserError(
            f"{address} is open only to those who accepted its terms: do so there, and log in with "
            "`hf auth login`, or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{address} has no revision {revision}: correct dataset.revision."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no {address}, or it is not public: correct dataset.task, or log in with "
            "`hf auth login`."
        ) from error
    except Exception as error:  # A network can make a client raise anything.
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        brief = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"cannot fetch {address}. Run this again where there is a network: what came is kept. "
            f"Or fetch all its files otherwise, and put them into {folder}. ({brief})"
        ) from error
