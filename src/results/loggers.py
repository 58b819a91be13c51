"""What goes to W&B, online where it can."""

import netrc
import os
import re
import socket
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger

CONNECT_TIMEOUT_S = 3


def wandb_logger(project: str, group: str, tags: Sequence[str], save_dir: str) -> WandbLogger:
    """Make a W&B run; it is offline if WANDB_MODE says so, or if there is no key or no network."""
    return WandbLogger(experiment=_start(save_dir, project=project, group=group, tags=list(tags)))


def log_sweep(folder: Path, report: Path, project: str, group: str) -> None:
    """Add a W&B run for a whole sweep: all runs as the table `runs`, the report as an artifact.

    Args:
        folder: the sweep's folder.
        report: the report's folder, as `page.write_report` fills it.
        project: the W&B project of the sweep's runs.
        group: the W&B group of the sweep's runs.
    """
    import pandas as pd
    import wandb

    runs = pd.read_csv(report / "runs.csv").astype(object)
    rows = runs.where(runs.notna(), None).values.tolist()
    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"report-{group}"), type="report")
    artifact.add_dir(str(report))
    with _start(str(folder), project=project, group=group, job_type="report") as run:
        run.log(
            {"runs": wandb.Table(columns=list(runs.columns), data=rows, allow_mixed_types=True)}
        )
        run.log_artifact(artifact)


def _start(save_dir: str, **about: Any) -> Any:
    import wandb

    Path(save_dir, "wandb").mkdir(parents=True, exist_ok=True)  # otherwise W&B writes to /tmp
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _reachable() else "offline")
    # W&B would list the installed packages again for each run: most of the time that a start takes.
    settings = wandb.Settings(silent=True, console="off", x_save_requirements=False)
    run = wandb.init(dir=save_dir, mode=mode, settings=settings, **about)
    if not run.disabled:
        requirements = Path(run.dir, "requirements.txt")
        requirements.write_text(_requirements())
        run.save(requirements, base_path=run.dir, policy="now")
    return run


@cache
def _requirements() -> str:
    """List the installed packages as `requirements.txt` does."""
    packages = [one.metadata for one in distributions()]
    return "".join(f"{one['Name']}=={one['Version']}\n" for one in packages if one["Name"])


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
