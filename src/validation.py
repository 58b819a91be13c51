"""Checking a configuration: what every command needs. Imports no torch."""

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from src.choices import near
from src.config import PROMPTS, TASKS, WITHOUT_VALIDATION
from src.errors import UserError, require_integer
from src.files import CONFIG_DIR
from src.resolvers import check_backbone

KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("dry_run", "force", "save_predictions"), bool),
    **dict.fromkeys(("method.support.horizontal_flip",), bool | NoneType),
    **dict.fromkeys(("group", "name", "ckpt_path"), str | NoneType),
    **dict.fromkeys(("paths.data", "paths.features", "paths.output"), str),
}
"""The types of settings that no class checks; null is one that is not there."""
WORDS = {
    bool: "true or false",
    bool | NoneType: "true or false",
    str: "text",
    str | NoneType: "text",
}
RESIZE_MODES = ("shortest", "longest", "squash")
"""How open_clip brings images to the size of a model."""
CHOICES = {"calibrate": ("temperature",), "conformal": ("lac", "aps", "raps")}
"""What these settings may be, beside null."""


def validate(cfg: DictConfig) -> None:
    """Check what every command needs.

    Raises:
        UserError: a mandatory value or the checkpoint is missing, there is an unknown key, a number
            is out of range, `dataset.name` or one of `tags` is no text, `backbone.name` belongs to
            another backbone, `backbone.preprocessing` has no known form, `on_bad_image` is neither
            `stop` nor `skip`, there is no such calibration, or no validation image for it, or no
            such protocol.
    """
    if missing := sorted(_known_keys() - {"hydra", *map(str, cfg)}):
        raise UserError(f"the configuration lacks {missing[0]}: leave ~{missing[0]} out.")
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise UserError(f"{key} has no value: give `{key}=...` on the command line.") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}.") from None
    for key, kind in KINDS.items():
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, kind):
            raise UserError(f"{key}={value} is of the wrong type: give {WORDS[kind]}.")
    if not isinstance(cfg.dataset.name, str):
        raise UserError(
            f"dataset.name={cfg.dataset.name} is not text: quote it, as 'dataset.name=\"mine\"'."
        )
    check_backbone(cfg)
    _check_preprocessing(cfg.backbone.get("preprocessing"))
    _check_numbers(cfg)
    _check_selection(cfg)
    _check_calibration(cfg)
    _check_protocol(cfg)
    _check_passes(cfg)
    _check_prompts(cfg)
    if cfg.ckpt_path is not None and not Path(str(cfg.ckpt_path)).is_file():
        raise UserError(f"the checkpoint ckpt_path={cfg.ckpt_path} is missing.")
    if unknown := [str(key) for key in cfg if key not in _known_keys()]:
        raise UserError(
            f"the configuration has no key {unknown[0]!r}, and a new one would change nothing. "
            f"{near(unknown[0], sorted(_known_keys()))}`--help` lists the keys."
        )
    if not (OmegaConf.is_list(cfg.tags) and all(isinstance(tag, str) for tag in cfg.tags)):
        raise UserError(f"tags={cfg.tags} are not texts: write them as tags=first,second.")
    if cfg.on_bad_image not in ("stop", "skip"):
        raise UserError(
            f"on_bad_image={cfg.on_bad_image} is neither stop nor skip: choose one of them."
        )


def _check_preprocessing(given: Any) -> None:
    if given is None or (isinstance(given, str) and given):
        return
    settings: Any = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    wrong = ["it"]
    if isinstance(settings, dict) and settings:
        wrong = [str(key) for key, value in settings.items() if not _prepares(key, value)]
    if wrong:
        raise UserError(
            f"backbone.preprocessing={settings}: {wrong[0]} is wrong. Give a tag of open_clip, as "
            "openai, or some of {mean: [0.5,0.5,0.5], std: [0.5,0.5,0.5], interpolation: bicubic, "
            "resize_mode: squash}; interpolation is bicubic or bilinear, and resize_mode shortest, "
            "longest or squash."
        )


def _prepares(key: Any, value: Any) -> bool:
    if key in ("mean", "std"):
        numbers = isinstance(value, list) and len(value) == 3
        least = 0 if key == "std" else -math.inf
        return numbers and all(
            isinstance(one, int | float) and least < one < math.inf for one in value
        )
    choices = {"interpolation": ("bicubic", "bilinear"), "resize_mode": RESIZE_MODES}
    return value in choices.get(key, ())


def _check_numbers(cfg: DictConfig) -> None:
    require_integer("shots", cfg.shots, least=1)
    require_integer("seed", cfg.seed, least=0)
    keys = (
        "batch_size", "backbone.batch_size", "method.training.epochs", "method.training.batch_size",
    )  # fmt: skip
    for key in keys:
        require_integer(key, OmegaConf.select(cfg, key, default=1), least=1)


def _check_prompts(cfg: DictConfig) -> None:
    if len(chosen := [name for name in PROMPTS if cfg.dataset.get(name) is not None]) > 1:
        raise UserError(f"dataset.{' and dataset.'.join(chosen)} exclude each other: give one.")
    if cfg.dataset.get("waffle") is not None:
        require_integer("dataset.waffle", cfg.dataset.waffle, least=0)


def _check_selection(cfg: DictConfig) -> None:
    names = sorted(path.stem for path in (CONFIG_DIR / "selection").glob("*.yaml"))
    name, search = cfg.selection.name, cfg.selection.search
    if name not in names or (name in WITHOUT_VALIDATION) != (search is None):
        raise UserError(
            f"selection.name={name} with selection.search={search} is no way of selection: choose "
            f"selection={' or '.join(names)}."
        )
    if search not in (None, "exact", "grid"):
        raise UserError(f"selection.search={search} is unknown: give exact or grid.")
    if name == "validation_free" and cfg.method.module.get("keep") == "best":
        raise UserError(
            "method.module.keep=best looks at validation images, and selection=validation_free has "
            "none: give method.module.keep=last, or another selection."
        )


def _check_calibration(cfg: DictConfig) -> None:
    for key, choices in CHOICES.items():
        if cfg[key] is not None and cfg[key] not in choices:
            raise UserError(f"{key}={cfg[key]} is unknown: give {', '.join(choices)} or null.")
    if not isinstance(cfg.coverage, int | float) or not 0 < cfg.coverage < 1:
        raise UserError(f"coverage={cfg.coverage} is not between 0 and 1: give a share, as 0.9.")
    unsuited = WITHOUT_VALIDATION | {"test"}
    if cfg.calibrate is not None and cfg.selection.name in unsuited:
        raise UserError(
            f"calibrate={cfg.calibrate} needs validation images, and selection="
            f"{cfg.selection.name} gives none: choose selection=val or val_few_shot."
        )


def _check_protocol(cfg: DictConfig) -> None:
    names = sorted(path.stem for path in (CONFIG_DIR / "protocol").glob("*.yaml"))
    protocol = cfg.protocol
    if protocol.name not in names:
        raise UserError(
            f"protocol.name={protocol.name} is unknown: choose protocol={' or '.join(names)}."
        )
    wanted = ("relaxed", "realistic") if protocol.name == "imbalanced" else (None,)
    if protocol.imbalance not in wanted:
        raise UserError(
            f"protocol.imbalance={protocol.imbalance} is no way of protocol={protocol.name}: give "
            "relaxed or realistic to protocol=imbalanced, and nothing to others."
        )
    if cfg.protocol.name == TASKS and cfg.conformal is not None:
        raise UserError(
            f"conformal={cfg.conformal} needs each test image once, and protocol={TASKS} shows "
            "them in small tasks: leave one of them out."
        )
    elsewhere = protocol.name in ("cross_dataset", "shift")
    if elsewhere and not cfg.eval_dataset:
        raise UserError(
            f"protocol={protocol.name} tests on other datasets: give eval_dataset=..., or leave it "
            "out."
        )
    if cfg.eval_dataset and protocol.name in ("base_to_new", "imbalanced"):
        raise UserError(
            f"protocol={protocol.name} tests on its own dataset: leave eval_dataset out, or choose "
            "protocol=cross_dataset or shift."
        )


def _check_passes(cfg: DictConfig) -> None:
    protocol, stream = cfg.protocol, cfg.stream
    names = sorted(path.stem for path in (CONFIG_DIR / "stream").glob("*.yaml"))
    if stream.name not in names:
        raise UserError(
            f"stream.name={stream.name} is unknown: choose stream={' or '.join(names)}."
        )
    require_integer("stream.orders", stream.orders, least=1)
    for name in ("batch_size", "slots"):
        if stream.get(name) is not None:
            require_integer(f"stream.{name}", stream[name], least=1)
    concentration = stream.get("concentration", 1)
    if not isinstance(concentration, int | float) or not 0 < concentration < math.inf:
        raise UserError(
            f"stream.concentration={concentration} is no number above 0: give one, as 0.1."
        )
    if protocol.name != TASKS:
        return
    for name in ("tasks", "images"):
        require_integer(f"protocol.{name}", protocol.get(name), least=1)
    bounds = protocol.get("classes")
    bounds = OmegaConf.to_container(bounds) if OmegaConf.is_config(bounds) else bounds
    match bounds:
        case [int(least), int(most)] if 1 <= least <= most:
            return
    raise UserError(
        f"protocol.classes={bounds} are no two numbers of classes, at least and at most: give them "
        "as 'protocol.classes=[3,10]'."
    )


@cache
def _known_keys() -> frozenset[str]:
    """List the keys at the top of the configuration."""
    root: Any = OmegaConf.load(CONFIG_DIR / "config.yaml")
    groups = {name for one in root.defaults if OmegaConf.is_config(one) for name in one}
    return frozenset({*map(str, root), *map(str, groups)} - {"defaults"})
