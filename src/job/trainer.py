"""Lightning's Trainer, its callbacks and its loggers, as the configuration wants them."""

import inspect
import logging
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from typing import Any

from hydra.errors import HydraException
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import DictConfig, OmegaConf

from src.bars import Bar
from src.clip.precision import AUTO
from src.command_line import EXPLANATIONS
from src.config import WITHOUT_VALIDATION, build
from src.data.text_files import listing
from src.errors import UserError
from src.masking import masked_tree

log = logging.getLogger(__name__)

TRAINER = {
    "max_epochs": "give method.training.epochs",
    "min_epochs": "give method.training.epochs",
    "max_steps": "give method.training.epochs",
    "precision": "give backbone.precision",
    "logger": "choose logger=...",
    "callbacks": "choose callbacks=...",
    "fast_dev_run": "for a short try, give shots=1 method.training.epochs=2",
    "overfit_batches": "for a short try, give shots=1 method.training.epochs=2",
    "reload_dataloaders_every_n_epochs": "leave it out",
    "strategy": "leave it out: features are extracted by one process for each of trainer.devices",
    "num_nodes": "start the sweep on each machine, with the same paths.features",
} | dict.fromkeys(
    (
        "default_root_dir", "enable_checkpointing", "enable_model_summary",
        "enable_progress_bar", "inference_mode", "limit_predict_batches", "log_every_n_steps",
        "num_sanity_val_steps", "use_distributed_sampler",
    ),
    "leave it out: the run decides it",
)  # fmt: skip
"""Settings of Lightning's Trainer that a run does not take, and what to do instead."""


MOST = 4
"""Processes for each processor that an extraction may have; more than one is no faster."""


def check_trainer(cfg: DictConfig) -> None:
    """Check the settings of Lightning's Trainer and its callbacks, before anything is extracted.

    Raises:
        UserError: one is unknown, is not taken here, or does not suit this machine.
    """
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    for name, value in cfg.trainer.items():
        if name not in known:
            near = listing([str(name)], known)
            raise UserError(f"trainer.{name}={value}: Lightning's Trainer has no setting {near}.")
        if name in TRAINER:
            raise UserError(f"trainer.{name}={value} has no effect here: {TRAINER[str(name)]}.")
    try:
        devices = devices_of(cfg)
        trainer = make_trainer(cfg, logger=False, progress=False)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"trainer: {reason} Correct the settings of trainer.") from None
    if (precision := cfg.backbone.get("precision", AUTO)) != AUTO:  # features that exist have none
        check_precision(cfg, "backbone.precision", precision)
    processors = os.cpu_count() or 1
    if isinstance(trainer.accelerator, CPUAccelerator) and len(devices) > MOST * processors:
        raise UserError(
            f"trainer.devices={len(devices)}: this machine has {processors} processors, and no "
            "accelerator that Lightning knows. Give as many or fewer."
        )
    if cfg.callbacks and not make_callbacks(cfg):
        log.warning("nothing is trained: callbacks has no effect")


def check_precision(cfg: DictConfig, key: str, precision: str) -> None:
    """Check that Lightning has a precision on this device, and computes in no other one for it.

    Raises:
        UserError: it does not; the message names `key`.
    """
    try:
        with warnings.catch_warnings():  # what Lightning warns of is refused below
            warnings.simplefilter("ignore")
            trainer = make_trainer(cfg, logger=False, progress=False, precision=precision)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{key}={precision}: {str(error).splitlines()[0].rstrip('.')}. Give one as bf16-true, "
            "16-true or 32-true."
        ) from None
    if trainer.precision != precision:
        raise UserError(
            f"{key}={precision}: Lightning takes {trainer.precision} for it here. Give that one."
        )


def _explain(error: Exception) -> str | None:
    if isinstance(error, MisconfigurationException):
        return f"trainer: {str(error).splitlines()[0]} Correct the settings of trainer."
    return None


EXPLANATIONS.append(_explain)


def make_trainer(
    cfg: DictConfig, callbacks: Sequence[Callback] = (), progress: bool = True, **settings: Any
) -> Trainer:
    """Make a Lightning Trainer; checkpoints are written by the run, not by the Trainer.

    Args:
        cfg: the configuration, whose `trainer` has further settings.
        callbacks: beside the progress bar.
        progress: whether there is one. A launcher's processes write to one terminal, side by side:
            none of them has a bar.
        settings: further ones. `devices` is the first of `devices_of` where it is not given: a
            method needs only one.
    """
    progress = progress and cfg.get("progress", _is_first())
    return Trainer(
        **{**cfg.trainer, "devices": devices_of(cfg)[0], **settings},
        callbacks=[Bar(), *callbacks] if progress else list(callbacks),
        enable_progress_bar=progress,
        default_root_dir=cfg.paths.output,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        # Within a Slurm allocation of several tasks, one process is meant all the same.
        plugins=LightningEnvironment(),
    )


def for_trainer(cfg: DictConfig) -> DictConfig:
    """Take from a configuration what `make_trainer` needs, looked up, for another process."""
    trainer = OmegaConf.to_container(cfg.trainer, resolve=True)
    paths = {"output": str(cfg.paths.output)}
    return OmegaConf.create({"trainer": trainer, "paths": paths, "progress": _is_first()})


def _is_first() -> bool:
    """Say whether the user started this process, and not a launcher."""
    return multiprocessing.parent_process() is None


def devices_of(cfg: DictConfig) -> list[Any]:
    """List what Lightning calls each device that `trainer.devices` names, one by one.

    Raises:
        TypeError, ValueError: Lightning does not take the settings of the trainer.
        MisconfigurationException: likewise, or there are fewer devices.
    """
    if cfg.trainer.devices == 1:
        return [1]
    trainer = Trainer(**cfg.trainer, logger=False, plugins=LightningEnvironment())
    if isinstance(trainer.accelerator, CPUAccelerator):
        return [1] * trainer.num_devices
    return [[index] for index in trainer.device_ids]


def make_callbacks(cfg: DictConfig) -> list[Callback]:
    """Build Lightning's callbacks for the training; none where nothing is trained.

    Raises:
        UserError: one cannot be built, or waits for what the training does not log.
    """
    if cfg.method.training is None or cfg.ckpt_path is not None:
        return []
    return [_make_callback(cfg, str(name), node) for name, node in cfg.callbacks.items()]


def _make_callback(cfg: DictConfig, name: str, node: Any) -> Callback:
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        raise UserError(f"callbacks.{name} says no _target_, the class of the callback: add it.")
    try:
        callback = build(node)
    except (HydraException, TypeError, ValueError) as error:
        reason = str(error).split(", set env")[0].splitlines()[0]
        raise UserError(f"callbacks.{name}: {reason}. Correct its settings.") from None
    if not isinstance(callback, Callback):
        raise UserError(f"callbacks.{name} is no callback of Lightning: correct its _target_.")
    validates = cfg.selection.name not in WITHOUT_VALIDATION
    logged = ["train_loss", *(["validation_loss", "validation_accuracy"] if validates else [])]
    monitor = getattr(callback, "monitor", None)
    if monitor is not None and monitor not in logged:
        raise UserError(
            f"callbacks.{name}.monitor={monitor}: with selection={cfg.selection.name} the training "
            f"logs {', '.join(logged)}. Choose one of them, or another selection."
        )
    if isinstance(callback, LearningRateMonitor) and not cfg.logger:
        raise UserError(f"callbacks.{name} needs a logger: choose logger=csv.")
    return callback


def make_loggers(cfg: DictConfig) -> list[Any]:
    """Build the loggers, each of which is given the whole configuration but its secrets."""
    loggers = [build(node) for node in cfg.logger.values()]
    for logger in loggers:
        logger.log_hyperparams(masked_tree(OmegaConf.to_container(cfg, resolve=True)))
    return loggers
