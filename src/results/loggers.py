"""What goes to W&B, online where it can. Imports no torch before a logger is made."""

import inspect
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from src.command_line import EXPLANATIONS
from src.data.text_files import listing
from src.errors import UserError
from src.masking import masked_overrides, masked_tree

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

CONNECT_TIMEOUT_S = 3

OWN = {
    "anonymous",
    "config",
    "dir",
    "experiment",
    "log_model",
    "settings",
    "save_code",
    "sync_tensorboard",
}
"""What W&B would take, and a run decides: its configuration, its folder and what is uploaded."""

log = logging.getLogger(__name__)


def wandb_logger(
    save_dir: str, tags: Sequence[str] = (), more_tags: Sequence[str] = (), **about: Any
) -> "WandbLogger":
    """Make a W&B run; it is offline if W&B is told so, or if there is no key or no network.

    Args:
        save_dir: the run's folder.
        tags: what the run is of.
        more_tags: the user's, beside those of `WANDB_TAGS`.
        about: what else `WandbLogger` takes.
    """
    from lightning.pytorch.loggers import WandbLogger

    exported = os.environ.get("WANDB_TAGS", "").split(",")
    all_tags = dict.fromkeys([*tags, *more_tags, *filter(None, map(str.strip, exported))])
    shown = masked_tree({"tags": list(all_tags)} | about)
    logger = WandbLogger(save_dir=save_dir, **shown | _prepare(save_dir, about))
    _keep_requirements(logger.experiment)
    return logger


def check_wandb(settings: Mapping[str, Any]) -> None:
    """Check what a W&B run is given, before there is anything to log.

    Args:
        settings: those of `logger.wandb`.

    Raises:
        UserError: `WandbLogger` does not take one, or `check_login` refuses.
    """
    # W&B's first run needs it, and its classes search all modules: torch has thousands.
    import wandb.sdk.launch
    from lightning.pytorch.loggers import WandbLogger

    calls = (WandbLogger.__init__, wandb.init)
    parameters = {name for call in calls for name in inspect.signature(call).parameters}
    known = parameters - {"self", "kwargs"} | {"_target_", "more_tags"}
    fields = wandb.Settings.model_fields
    for name, value in settings.items():
        if name in OWN:
            raise UserError(f"logger.wandb.{name} is decided by the run: leave it out.")
        if name not in known:
            raise UserError(f"W&B takes no setting {listing([str(name)], known)}: see wandb.init.")
        if field := next((one for one in (name, f"run_{name}") if one in fields), None):
            with _reading(f"logger.wandb.{name}={value}"):
                wandb.Settings(**{field: value})
    check_login(settings)


def check_login(settings: Mapping[str, Any]) -> None:
    """Check that W&B can be online, where it must be. Imports no torch.

    Raises:
        UserError: it can't, or its own settings cannot be read.
    """
    if _asked_mode(settings) == "online" and (obstacle := _obstacle()):
        raise UserError(
            f"W&B must be online, and {obstacle}. Without WANDB_MODE=online the run is logged "
            "offline, and logger=csv does without W&B."
        )


def log_sweep(folder: Path, report: Path, group: str, **where: str) -> None:
    """Add a W&B run for a whole sweep: all runs as the table `runs`, the report as an artifact.

    Args:
        folder: the sweep's folder.
        report: the report's folder, as `page.write_report` fills it.
        group: the W&B group of the sweep's runs.
        where: the W&B entity and project of the sweep's runs.
    """
    import pandas as pd
    import wandb

    runs = pd.read_csv(report / "runs.csv").astype(object)
    rows = runs.where(runs.notna(), None).values.tolist()
    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"report-{group}"), type="report")
    artifact.add_dir(str(report))
    with _start(str(folder), **where, group=group, job_type="report") as run:
        run.summary["protocol"] = ", ".join(runs["protocol"].unique())  # views go by it
        run.log(
            {"runs": wandb.Table(columns=list(runs.columns), data=rows, allow_mixed_types=True)}
        )
        run.log_artifact(artifact)


def _start(save_dir: str, **about: Any) -> Any:
    import wandb

    run = wandb.init(dir=save_dir, **about, **_prepare(save_dir, about))
    _keep_requirements(run)
    return run


def _prepare(save_dir: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Make W&B's folder, and decide how it works."""
    import wandb

    Path(save_dir, "wandb").mkdir(parents=True, exist_ok=True)  # otherwise W&B writes to /tmp
    # W&B would list the installed packages again for each run: most of the time that a start takes.
    settings = wandb.Settings(
        silent=True,
        console="off",
        x_save_requirements=False,
        # W&B's description of the machine has the command line in it.
        x_disable_meta=masked_overrides(sys.argv) != sys.argv,
    )
    return {"settings": settings, "mode": _asked_mode(about) or _automatic_mode()}


def _keep_requirements(run: Any) -> None:
    if not run.disabled:
        requirements = Path(run.dir, "requirements.txt")
        requirements.write_text(_requirements())
        run.save(requirements, base_path=run.dir, policy="now")


@cache
def _requirements() -> str:
    """List the installed packages as `requirements.txt` does."""
    packages = [one.metadata for one in distributions()]
    return "".join(f"{one['Name']}=={one['Version']}\n" for one in packages if one["Name"])


def _asked_mode(about: Mapping[str, Any]) -> Any:
    """Give the mode that the user asks for, by a setting, `WANDB_MODE` or `wandb offline`."""
    if about.get("offline"):
        return "offline"
    stored = _wandb_settings().mode
    # W&B's own default is to be online, which nobody asked for.
    default = None if stored == "online" else stored
    return about.get("mode") or os.environ.get("WANDB_MODE") or default


@cache
def _automatic_mode() -> str:
    obstacle = _obstacle()
    if obstacle:
        log.info("W&B is offline, because %s; `wandb sync` uploads what is logged", obstacle)
    return "offline" if obstacle else "online"


def _obstacle() -> str | None:
    """Say what keeps W&B from being online: no key for its server, or no way to it."""
    from wandb.sdk.lib.wbauth import read_netrc_auth

    settings = _wandb_settings()
    known = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    if not (known or settings.api_key or read_netrc_auth(host=settings.base_url)):
        return f"there is no key for {settings.base_url}: `wandb login` asks for one"
    url = urlsplit(settings.base_url)
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return f"{url.hostname} cannot be reached ({error})"
    return None


def _wandb_settings() -> Any:
    """Read W&B's own settings: its server, the key and the mode."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")  # it talks before a run's own settings hold
    with _reading("its own settings"):
        return wandb.setup().settings


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Say what W&B cannot read, in one line instead of the several of its checks."""
    try:
        yield
    except (TypeError, ValueError) as error:
        reason = re.sub(r"\s+", " ", str(error)).partition(" [type=")[0]
        raise UserError(f"W&B cannot read {what}: {reason}.") from None


def _explain(error: Exception) -> str | None:
    wandb = sys.modules.get("wandb")
    if wandb is not None and isinstance(error, wandb.errors.Error):
        return f"W&B: {error} Mend that, or choose logger=csv."
    return None


EXPLANATIONS.append(_explain)
