"""A configuration without Hydra, for those who adapt from Python: the same YAML, joined by hand."""

from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import method_yaml
from src.errors import UserError
from src.files import CONFIG_DIR
from src.validation import validate

SELECTION = "override /selection@_global_.selection"
"""The key by which a method's YAML chooses a selection of its own."""


def compose_plainly(
    method: str,
    backbone: str,
    selection: str | None,
    dataset: Mapping[str, Any],
    values: Mapping[str, Any],
) -> DictConfig:
    """Join the YAML of `conf/` without Hydra and without its global state.

    Args:
        method: its name.
        backbone: its name.
        selection: its name; None: the method's own where it looks at no validation images, or
            `fixed`.
        dataset: what a YAML of `conf/dataset` holds.
        values: settings by key, as `method.head.alpha`, put over those of the YAML.

    Raises:
        UserError: there is no such method, backbone or setting, or a value is out of range.
    """
    own = _selection_of(method)
    if own == "validation_free" or selection is None:
        selection = own or "fixed"
    root = _load("config.yaml")
    cfg = OmegaConf.merge(
        {name: value for name, value in root.items() if name not in ("defaults", "hydra")},
        {
            "backbone": _choice("backbone", backbone),
            "selection": _choice("selection", selection),
            "method": method_yaml(method) or _choice("method", method),
            "dataset": dataset,
            "protocol": _choice("protocol", "all_classes"),
            "stream": _choice("stream", "shuffled"),
            "trainer": _choice("trainer", "auto"),
            "callbacks": {},
            "logger": {},
        },
    )
    cfg.method.pop("defaults", None)
    OmegaConf.set_struct(cfg, True)
    for key, value in values.items():
        try:
            OmegaConf.update(cfg, key, value)
        except OmegaConfBaseException as error:
            raise UserError(f"{key}: {str(error).splitlines()[0]}.") from None
    OmegaConf.set_struct(cfg, False)
    validate(cast(DictConfig, cfg))
    return cast(DictConfig, cfg)


def _selection_of(method: str) -> str | None:
    path = CONFIG_DIR / "method" / f"{method}.yaml"
    defaults: Any = _load(f"method/{method}.yaml").get("defaults", []) if path.is_file() else []
    for one in defaults:
        if OmegaConf.is_config(one) and SELECTION in one:
            return str(one[SELECTION])
        if isinstance(one, str) and one != "_self_" and (inherited := _selection_of(one)):
            return inherited
    return None


def _choice(group: str, name: str) -> Any:
    known = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    if name not in known:
        raise UserError(f"there is no {group} called {name!r}. Choices: {', '.join(known)}.")
    return _load(f"{group}/{name}.yaml")


def _load(name: str) -> Any:
    return OmegaConf.load(CONFIG_DIR / name)
