"""Composing and checking the configuration. Imports no torch."""

import hashlib
import inspect
import json
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from src.choices import RECIPES_GROUP, near
from src.command_line import EXPLANATIONS, explain
from src.errors import UserError, require_integer
from src.files import CONFIG_DIR, ROOT
from src.masking import masked_overrides
from src.resolvers import check_backbone

WITHOUT_EFFECT = {
    "attention_images", "dry_run", "force", "group", "hydra", "logger", "name", "paths",
    "save_predictions", "tags",
}  # fmt: skip
"""Parts of the configuration that no metric depends on."""
DESCRIPTIONS = {"method": ("settings", "about"), "dataset": ("licence",), "backbone": ("licence",)}
"""As `WITHOUT_EFFECT`, but settings of a group."""
PARTS = {
    "support": "sees no support set", "training": "is not trained",
    "test_crops": "sees no crops of test images",
}  # fmt: skip
"""Parts of a method that not every one has."""


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

WITH_VALUE = {
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun",
}  # fmt: skip
"""Hydra's options that a value follows."""


RESIZE_MODES = ("shortest", "longest", "squash")
"""How open_clip brings images to the size of a model."""


WITHOUT_VALIDATION = {"fixed", "validation_free"}
"""Ways of selection that look at no labelled image beside the support set."""


FEW_SHOT_VALIDATION = {"val_few_shot": 4, "val_shots": None}
"""Ways of selection that look at as many validation images per class as there are shots, or at this
many if that is less (CoOp's protocol)."""


ALL_CLASSES = "all_classes"
"""The protocol of runs from before there were others."""


TASKS = "tasks"
"""The protocol of small tasks."""


CHOICES = {"calibrate": ("temperature",), "conformal": ("lac", "aps", "raps")}
"""What these settings may be, beside null."""

ADDED_LATER = {"coverage": "conformal", "calibrate": "calibrate", "conformal": "conformal"}
"""Settings that change nothing where another one is null: runs from before there were any keep
their hash and their label."""


ADDED_WITHIN = (("dataset", "descriptors"), ("dataset", "waffle"), ("backbone", "preprocessing"))
"""As `ADDED_LATER`, but settings of a group, which change nothing where they are null."""


def config_hash(cfg: DictConfig) -> str:
    """Hash the parts of a configuration that can change what a run finds.

    Where the project itself lies is not among them, nor which tables its settings were looked up
    in: their values are. Shots and seed are among them where they decide which images a run sees,
    and the seed where it decides which images sets are calibrated on; of a checkpoint, they are its
    own, as the method's settings are.
    """
    for part in foreign_parts(cfg):
        cfg = cfg.copy()
        cfg.method[part] = None
    relevant = {key: _resolved(cfg, key) for key in cfg if key not in WITHOUT_EFFECT}
    del relevant["stream"]  # it is among the settings of the methods that see a stream
    for group, names in DESCRIPTIONS.items():
        for name in names:
            relevant[group].pop(name, None)
    for group, added in ADDED_WITHIN:
        if relevant[group].get(added) is None:
            relevant[group].pop(added, None)
    for added, in_use_by in ADDED_LATER.items():
        if relevant[in_use_by] is None:
            del relevant[added]
    if relevant["protocol"]["name"] == ALL_CLASSES:
        del relevant["protocol"]
    if not relevant["callbacks"]:
        del relevant["callbacks"]  # runs from before there were any keep their name
    if cfg.ckpt_path is not None:
        relevant["method"] = cfg.method.name
    if not draws_images(cfg):
        del relevant["shots"]
        calibrates = cfg.conformal is not None and cfg.ckpt_path is None
        if not (calibrates or draws_passes(cfg)):
            del relevant["seed"]
    content = json.dumps(relevant, sort_keys=True).replace(str(ROOT), "")
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _resolved(cfg: DictConfig, key: Any) -> Any:
    value = cfg[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def draws_images(cfg: DictConfig) -> bool:
    """Say whether it depends on `shots` and `seed` which labelled images a run sees."""
    looked_at = {selection_of(cfg), cfg.selection.name if cfg.calibrate is not None else None}
    few_shot = cfg.method.support is not None or not looked_at.isdisjoint(FEW_SHOT_VALIDATION)
    return few_shot and cfg.ckpt_path is None


def draws_passes(cfg: DictConfig) -> bool:
    """Say whether it depends on `seed` in which order or parts the test images are shown."""
    return cfg.protocol.name == TASKS or cfg.method.get("stream") is not None


def selection_of(cfg: DictConfig) -> str:
    """Name what settings are chosen on; `fixed` where the method has nothing to choose.

    `validation_free` is a protocol, which a method follows whether it could choose or not.
    """
    if cfg.selection.name == "validation_free":
        return "validation_free"
    chooses = (
        cfg.method.search is not None
        or cfg.method.module.get("keep") == "best"
        or searches_views(cfg)
    )
    return str(cfg.selection.name) if chooses else "fixed"


PROMPTS = ("prompts", "descriptors", "waffle")
"""What `dataset` may name in place of its templates."""


def has_other_prompts(cfg: DictConfig) -> bool:
    """Say whether a run has other prompts than the dataset's own."""
    if any(cfg.dataset.get(name) is not None for name in PROMPTS):
        return True
    given: Any = OmegaConf.to_container(cast(DictConfig, HydraConfig.get()).overrides.task)
    return any(one.lstrip("+").startswith("dataset.templates") for one in given)


def searches_views(cfg: DictConfig) -> bool:
    """Say whether the weights of depth maps are chosen."""
    return bool(cfg.dataset.get("view_weights") == "search")


def protocol_of(cfg: DictConfig) -> str:
    """Name the protocol of a run as its record does.

    That of imbalanced support sets has how they are drawn; streams that are not simply shuffled
    have one of their own.
    """
    protocol, stream = cfg.protocol, cfg.method.get("stream")
    if stream is not None and stream.name != "shuffled" and protocol.name == ALL_CLASSES:
        return f"stream_{stream.name}"
    imbalance = protocol.imbalance
    return str(protocol.name if imbalance is None else f"{protocol.name}_{imbalance}")


def run_group(cfg: DictConfig) -> str:
    """Name the W&B group of a single run: by default, of those that it can be compared with."""
    return str(cfg.group or "-".join([cfg.dataset.name, cfg.backbone.name, *_other_protocol(cfg)]))


def run_name(cfg: DictConfig) -> str:
    """Name the W&B run of a job."""
    names = (cfg.dataset.name, cfg.backbone.name, cfg.method.name, cfg.shots, cfg.seed)
    return str(cfg.name or "-".join(map(str, [*names, *_other_protocol(cfg)])))


def _other_protocol(cfg: DictConfig) -> list[str]:
    protocol = protocol_of(cfg)
    return [] if protocol == ALL_CLASSES else [protocol]


def _job_name(*, _root_: DictConfig) -> str:
    """`${job_name:}`: what tells a job of a sweep from the others."""
    drawn = [_root_.shots, _root_.seed] if draws_images(_root_) else []
    if not drawn and draws_passes(_root_):
        drawn = [_root_.seed]
    names = (_root_.dataset.name, _root_.backbone.name, _root_.method.name)
    return "-".join(map(str, [*names, *drawn, config_hash(_root_)]))


OmegaConf.register_new_resolver("job_name", _job_name, replace=True)


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose `conf/config.yaml` with command-line `overrides`, inside a Hydra run or outside."""
    if GlobalHydra.instance().is_initialized():
        return hydra_compose("config", overrides=list(overrides))
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides))


def method_yaml(name: str) -> DictConfig:
    """Read a method's YAML with what it extends, without composing the rest of a configuration."""
    path = CONFIG_DIR / "method" / f"{name}.yaml"
    own: Any = OmegaConf.load(path) if name.isidentifier() and path.is_file() else {}
    extended = [one for one in own.get("defaults", []) if isinstance(one, str) and one != "_self_"]
    return cast(DictConfig, OmegaConf.merge(*map(method_yaml, extended), own))


def foreign_parts(cfg: DictConfig) -> list[str]:
    """Name the parts of `method` that were given to a method whose own YAML has no such part."""
    own = method_yaml(cfg.method.name)
    given = [part for part in PARTS if cfg.method.get(part)]
    return [part for part in given if own and own.get(part) is None]


def is_default(cfg: DictConfig, name: str) -> bool:
    """Say whether a setting below `method`, as `head.beta`, is what the method's own YAML says.

    One that the command line names is not, whatever its value.
    """
    if HydraConfig.initialized():
        given = {one.partition("=")[0].lstrip("+") for one in HydraConfig.get().overrides.task}
        if f"method.{name}" in given:
            return False
    own = OmegaConf.create({**cfg, "method": method_yaml(cfg.method.name)})
    default = OmegaConf.select(own, f"method.{name}")
    return bool(default is not None and default == OmegaConf.select(cfg, f"method.{name}"))


def build(node: DictConfig, **values: Any) -> Any:
    """Call the node's `_target_` with its settings and `values`.

    Unlike with `instantiate`, an exception of the target arrives as it was raised.

    Raises:
        UserError: the target takes no such setting.
    """
    target = instantiate(node, _partial_=True, _convert_="all")
    known = inspect.signature(target.func).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        for name in target.keywords:
            if name not in known:
                raise UserError(
                    f"{node._get_full_key(name)}: there is no such setting. "
                    f"{near(name, list(known))}There are {', '.join(known)}."
                )
    return target(**values)


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


def rerun_command(hydra: HydraConf) -> str:
    """Say what to type to have this one run again, given Hydra's own configuration.

    A recipe in experiments/ makes a sweep of itself, unless it is told to be one run. Secrets must
    be typed again.
    """
    single = ["hydra.mode=RUN"] if "experiment" in hydra.runtime.choices else []
    typed: Any = OmegaConf.to_container(cast(DictConfig, hydra).overrides.task)
    return shlex.join(["python", "-m", "src.run", *single, *masked_overrides(typed)])


def as_lists(arguments: Sequence[str], *keys: str) -> list[str]:
    """Write `key=a,b` as `key=[a,b]`: one list, which Hydra would take for a sweep."""
    written = []
    for one in arguments:
        key, equals, value = one.partition("=")
        written.append(f"{key}=[{value}]" if equals and key in keys and "[" not in value else one)
    return written


def arrange(arguments: Sequence[str]) -> list[str]:
    """Put Hydra's own options before the overrides, wherever they stand, as Hydra wants them.

    `--seed=1`, as W&B's agents write an override, becomes `seed=1`.
    """
    options: list[str] = []
    overrides: list[str] = []
    waiting = iter(arguments)
    for one in waiting:
        name, equals, _ = one.partition("=")
        if not one.startswith("-"):
            overrides.append(one)
        elif equals and name not in WITH_VALUE:
            overrides.append(one.lstrip("-"))
        else:
            options.append(one)
            if one in WITH_VALUE:
                options += [next(waiting, "")]
    return options + overrides


def _explain(error: Exception) -> str | None:
    match error:
        case MissingConfigException():
            return _unknown_choice(error)
        case InstantiationException(__cause__=ImportError()):
            place, _, key = str(error).partition("full_key: ")
            return f"{key.strip()}: {place.partition(', set env')[0]}. Correct its _target_."
        case InstantiationException(__cause__=Exception() as cause):
            return explain(cause)
        case HydraException():
            return _invalid_override(error)
    return None


EXPLANATIONS.append(_explain)


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").partition("/")
    options = list(error.options or [])
    if not options:
        return _invalid_override(error)
    return f"there is no {group} called {name!r}. {near(name, options)}Choices: " + (
        f"{', '.join(options)}."
    )


def _invalid_override(error: HydraException) -> str:
    message = str(error)
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}: quote a value with special characters twice, for the "
            "shell and for Hydra, as 'dataset.templates=[\"a photo of a {}.\"]'."
        )
    if key := re.search(r"Could not override '([^'@]+)", message):
        known = _keys(OmegaConf.to_container(compose([])))
        # Hydra composes a sweep's first configuration without the swept choices.
        swept = {"-m", "--multirun"} & set(sys.argv)
        hint = f" If a swept choice has it, give ++{key[1]}=..." if swept else ""
        if key[1] == RECIPES_GROUP:
            return "a recipe is given with a plus, as +experiment=demo."
        return (
            f"the configuration has no key {key[1]!r}. {near(key[1], known)}"
            f"`--help` lists the keys.{hint}"
        )
    return " ".join(line.strip() for line in message.split("See https", maxsplit=1)[0].splitlines())


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    return [
        key
        for name, child in node.items()
        for key in (f"{prefix}{name}", *_keys(child, f"{prefix}{name}."))
    ]
