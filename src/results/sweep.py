"""The end of a multirun: one table over its jobs."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.results.record import FILE, Result
from src.results.table import show


class SweepTable(Callback):
    """Hydra's callback: after the last job, print what all of them found."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        paths = sorted(folder.glob(f"*/{FILE}"), key=lambda path: _natural(path.parent.name))
        show([Result.read(path) for path in paths], f"all runs in {folder}")


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (-1, name)
