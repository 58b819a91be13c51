"""The W&B logger, online where it can be."""

import netrc
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger

CONNECT_TIMEOUT_S = 3


def wandb_logger(project: str, group: str, tags: Sequence[str], save_dir: str) -> WandbLogger:
    """Make a W&B run; offline when WANDB_MODE says so, or without a key or a network."""
    import wandb

    Path(save_dir, "wandb").mkdir(parents=True, exist_ok=True)  # or W&B falls back to /tmp
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _reachable() else "offline")
    run = wandb.init(
        project=project,
        group=group,
        tags=list(tags),
        dir=save_dir,
        mode=mode,
        settings=wandb.Settings(silent=True, console="off"),
    )
    return WandbLogger(experiment=run)


def _reachable() -> bool:
    url = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = url.hostname or ""
    if not (os.environ.get("WANDB_API_KEY") or _in_netrc(host)):
        return False
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _in_netrc(host: str) -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
