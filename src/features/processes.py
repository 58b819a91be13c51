"""An extraction shared out among processes of this machine, one for each device."""

import logging
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from lightning import Trainer
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from src.clip.model import FrozenClip
from src.errors import UserError
from src.features.extract import Batch, Work, encode
from src.hints import without_hints
from src.store.writer import AT_ONCE


def share_out(
    work: Work,
    batches: Sequence[Batch],
    load: Callable[[], FrozenClip],
    trainer: Callable[..., Trainer],
    devices: Sequence[Any],
) -> None:
    """Encode `batches` in as many processes as there are `devices`, and wait for all of them.

    Each has a run of neighbours, and none more than one batch more than another. What it has of a
    shard that it shares with a neighbour, it leaves to `EntryWriter.join`.

    Args:
        work: what to encode; it is pickled.
        batches: in the order of their rows, at least one for each device.
        load: gives each process its model.
        trainer: makes each process's Trainer, given `devices`, `progress` and `callbacks`.
        devices: what Lightning calls the device of each.

    Raises:
        UserError: what one of the processes raised, or that it was killed; the others were ended.
    """
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    work = replace(work, writer=replace(work.writer, disk=None))
    arguments = (
        work, list(batches), load, trainer, list(devices), torch.get_num_threads(), errors
    )  # fmt: skip
    count = len(devices)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it says less
    running: Any = start_processes(_encode, arguments, count, join=False)  # type: ignore[no-untyped-call]
    try:
        while not running.join():
            pass
    except ProcessExitedException as error:
        if not errors.empty():
            raise errors.get() from None
        name = signal.Signals(-error.exit_code).name if error.exit_code < 0 else error.exit_code
        raise UserError(
            f"process {error.error_index + 1} of the {count} that extract features was ended from "
            f"outside ({name}), perhaps because memory was short. Start the same command again: it "
            "continues where it stopped; with fewer trainer.devices it takes less memory."
        ) from None


def _encode(
    process: int,
    work: Work,
    batches: Sequence[Batch],
    load: Callable[[], FrozenClip],
    trainer: Callable[..., Trainer],
    devices: Sequence[Any],
    threads: int,
    errors: Any,
) -> None:
    count = len(devices)
    own = batches[len(batches) * process // count : len(batches) * (process + 1) // count]
    torch.set_num_threads(max(1, threads // count))

    def make(**settings: Any) -> Trainer:
        quiet: dict[str, Any] = {} if process == 0 else {"progress": False}
        return trainer(devices=devices[process], **settings, **quiet)

    try:
        with without_hints(), ThreadPoolExecutor(AT_ONCE) as disk:
            here = replace(work, writer=replace(work.writer, disk=disk))
            encode(here, own, load(), make, count)
    except (UserError, OSError) as error:
        errors.put(error)
        raise SystemExit(2) from None
