"""Composing the configuration, and what it says of a run. Imports no torch."""

import hashlib
import inspect
import json
import re
import shlex
import sys
from collections.abc import Sequence
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

from src import resolvers  # noqa: F401  (registers what conf/ looks settings up by)
from src.choices import RECIPES_GROUP, near
from src.command_line import EXPLANATIONS, explain
from src.errors import UserError
from src.files import CONFIG_DIR, ROOT
from src.masking import masked_overrides

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
WITH_VALUE = {
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun",
}  # fmt: skip
"""Hydra's options that a value follows."""
WITHOUT_VALIDATION = {"fixed", "validation_free"}
"""Ways of selection that look at no labelled image beside the support set."""
FEW_SHOT_VALIDATION = {"val_few_shot": 4, "val_shots": None}
"""Ways of selection that look at as many validation images per class as there are shots, or at this
many if that is less (CoOp's protocol)."""
ALL_CLASSES = "all_classes"
"""The protocol of runs from before there were others."""
TASKS = "tasks"
"""The protocol of small tasks."""
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
