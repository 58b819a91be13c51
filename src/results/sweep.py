"""The end of a multirun: its jobs in one table, in the terminal and in `summary.md`."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.files import replacing
from src.results import summary, table
from src.results.record import FILE, Result

SUMMARY = "summary.md"
LONG = 12
"""Jobs from which on a row for each is too much to look at."""


class SweepTable(Callback):
    """Hydra's callback: after the last job, show what all of them found."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        paths = sorted(folder.rglob(FILE), key=lambda path: _natural(path.relative_to(folder)))
        results = [Result.read(path) for path in paths]
        if not results:
            return
        if len(results) <= LONG:
            table.show(results, f"all runs in {folder}")
        summaries = summary.summarise(results)
        if any(len(each.cells) < len(results) for each in summaries):
            summary.show(summaries)
        with replacing(folder / SUMMARY) as temporary:
            temporary.write_text(summary.markdown(summaries))


def _natural(path: Path) -> tuple[int, str]:
    """Sort by job, a job's own result before those of further datasets."""
    job, *rest = path.parts
    return (int(job) if job.isdigit() else -1, "/".join(rest[:-1]))
