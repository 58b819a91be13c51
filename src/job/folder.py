"""A run's folder: it belongs to one process, and holds the configuration beside the result."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from src.config import config_hash
from src.errors import UserError
from src.files import replacing
from src.masking import MASK, masked_overrides, masked_tree
from src.results.record import FILE, Result

log = logging.getLogger(__name__)

LOCK = ".lock"
CONFIGURATION = ".hydra"
"""Where the configuration lies, under the names that Hydra gives to its parts."""


@contextmanager
def claim(folder: Path, key: str) -> Iterator[None]:
    """Hold a folder for this process; if the process is killed, the system lets it go.

    Of a distributed run, rank 0 takes it for all.

    Args:
        folder: it is made if it is missing.
        key: what the user gives to choose another one.

    Raises:
        UserError: another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process is at work in {folder}: wait until it ends, or give another {key}=..."
        ) from None
    try:
        yield
    finally:
        lock.release()


def warn_of_another(cfg: DictConfig, folder: Path) -> None:
    """Say so if a folder holds the result of another configuration, which a run would replace."""
    try:
        found = Result.read(folder / FILE)
    except UserError:
        return
    if found.config_hash != config_hash(cfg):
        log.warning(
            "%s holds the result of another run, of method=%s on dataset=%s: it is replaced",
            folder, found.method, found.dataset,
        )  # fmt: skip


def keep_configuration(cfg: DictConfig, folder: Path) -> None:
    """Write a run's configuration, as Hydra would, once it is certain that the run takes place.

    Hydra itself writes earlier, over that of the run whose result lies in the folder.
    """
    hydra: Any = HydraConfig.instance().cfg
    parts = {"config": cfg, "hydra": hydra, "overrides": hydra.hydra.overrides.task}
    (folder / CONFIGURATION).mkdir(exist_ok=True)
    hidden = [
        _write_masked(part, folder / CONFIGURATION / f"{name}.yaml") for name, part in parts.items()
    ]
    if any(hidden):
        log.warning("what looks like a secret in the settings is written as %s", MASK)


def mask_sweep_configuration(sweep: Path) -> None:
    """Hide secrets in the record of a sweep, which Hydra writes before its first job."""
    path = sweep / "multirun.yaml"
    try:
        found = OmegaConf.load(path)
    except FileNotFoundError:
        return
    except YAMLError:  # the disk is full, and half of it is of no use
        path.unlink()
        return
    if (content := OmegaConf.to_container(found)) != masked_tree(content):
        _write_masked(found, path)


def _write_masked(part: Any, path: Path) -> bool:
    """Write a configuration without its secrets; say whether there are any."""
    content: Any = OmegaConf.to_container(part)
    written = masked_tree(content)
    if isinstance(content, list):
        written = masked_overrides(content)
    with replacing(path) as temporary:
        OmegaConf.save(OmegaConf.create(written), temporary)
    return bool(written != content)
