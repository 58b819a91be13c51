"""Lightning's hints, which a command of ours has no use for."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("lightning.pytorch", "lightning.fabric")
MESSAGES = (
    ".*does not have many workers",
    "Found .* module.s. in eval mode",  # CLIP's tower
    "Couldn't infer the batch indices",
    "Total length of `list` across ranks is zero",
    "Experiment logs directory .* exists",
    ".*LeafSpec.* is deprecated",
)


@contextmanager
def without_hints() -> Iterator[None]:
    """Keep hints about devices, workers and Lightning's own products off the screen.

    Afterwards the caller's own settings hold again.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in MESSAGES:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
