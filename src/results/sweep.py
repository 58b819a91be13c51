"""The end of a multirun: its jobs in the terminal, and their report."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

LONG = 12
"""Jobs from which on a row for each is too much to look at."""


class SweepTable(Callback):
    """Hydra's callback: after the last job, show what all of them found."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from src.results import formats, frame, page, summary, table
        from src.results.record import FILE, Result

        folder = Path(config.hydra.sweep.dir)
        if not any(folder.rglob(FILE)):
            return
        runs = frame.load([folder]).frame
        if len(runs) <= LONG:
            results = [Result.read(Path(each, FILE)) for each in runs["folder"]]
            table.show(results, f"all runs in {folder}")
        cells = summary.summarise(runs)
        if len(cells) < len(runs):
            formats.show(summary.by_shots(cells))
        print(f"report in {page.write_report([folder], folder / page.FOLDER)}")
