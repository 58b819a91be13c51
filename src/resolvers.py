"""What `conf/` looks up: settings by backbone and dataset, names of backbones, collections.

Importing this registers the resolvers with OmegaConf.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from src.errors import UserError
from src.files import CONFIG_DIR, ROOT

SETTINGS = CONFIG_DIR / "settings"
DEFAULTS = "defaults"
"""Where the settings of a run come from that no table has a row for."""
LOCAL_DIR, HUB = "local-dir:", "hf-hub:"


def settings_from(cfg: DictConfig) -> str:
    """Say where the settings of a run's method came from, apart from what the user gave.

    Returns:
        The backbone, the dataset and the tables that have a row for them, as `rn50 on eurosat
        (conf/settings/calip.yaml)`, or `defaults`.
    """
    tables = [name for name in cfg.method.get("settings", ()) if _row(cfg, name)]
    if not tables:
        return DEFAULTS
    files = ", ".join(f"conf/settings/{name}.yaml" for name in tables)
    return f"{cfg.backbone.name} on {cfg.dataset.name} ({files})"


def check_backbone(cfg: DictConfig) -> None:
    """Refuse a name of a backbone that stands for another architecture or other weights.

    Raises:
        UserError: `backbone.name` was given, and is that of another backbone.
    """
    name = cfg.backbone.name
    if name in _backbones() and _backbones()[name] != _identity(cfg.backbone):
        raise UserError(
            f"backbone.name={name} stands for other weights than backbone.architecture="
            f"{cfg.backbone.architecture} backbone.pretrained={cfg.backbone.pretrained}, or for "
            "another backbone.preprocessing: give another name, or leave it out."
        )


def _setting(name: str, default: Any, *, _root_: DictConfig) -> Any:
    """`${settings:alpha,1.17}`: what the method's tables say for this backbone and this dataset."""
    for table in _root_.method.settings:
        row = _row(_root_, table)
        if name in row:
            return row[name]
    return default


def _row(cfg: DictConfig, table: str) -> Mapping[str, Any]:
    if cfg.selection.name == "validation_free":
        return {}  # one setting for all datasets
    rows = _table(SETTINGS / f"{table}.yaml").get(cfg.backbone.name, {})
    row: Mapping[str, Any] = rows.get(cfg.dataset.name, {})
    return row


@cache
def _table(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path), resolve=True)


def _backbone_name(*, _root_: DictConfig) -> str:
    """`${backbone_name:}`: the name that belongs to the architecture and the weights."""
    architecture, pretrained, preprocessing = identity = _identity(_root_.backbone)
    for name, known in _backbones().items():
        if known == identity:
            return name
    if architecture.startswith(LOCAL_DIR):
        parts = ["local", Path(architecture.removeprefix(LOCAL_DIR)).name]
    elif architecture.startswith(HUB):
        parts = ["hub", architecture.removeprefix(HUB)]
    elif pretrained is None:
        parts = [architecture, "random"]
    else:
        parts = [architecture, Path(pretrained).stem if "/" in pretrained else pretrained]
    if preprocessing is not None:
        short = hashlib.sha256(preprocessing.encode()).hexdigest()[:8]
        parts.append(f"prepared_{short}" if "{" in preprocessing else preprocessing)
    return re.sub(r"[^\w.-]+", "_", "-".join(parts))


@cache
def _backbones() -> dict[str, tuple[str | None, ...]]:
    """List the backbones of `conf/backbone`: their architecture, weights and preprocessing."""
    files = sorted((CONFIG_DIR / "backbone").glob("*.yaml"))
    nodes = {file.stem: OmegaConf.load(file) for file in files}
    return {name: _identity(node) for name, node in nodes.items() if node.architecture}


def _identity(backbone: Any) -> tuple[str, str | None, str | None]:
    pretrained, preprocessing = backbone.pretrained, backbone.get("preprocessing")
    if OmegaConf.is_config(preprocessing):
        preprocessing = json.dumps(OmegaConf.to_container(preprocessing), sort_keys=True)
    return (
        str(backbone.architecture),
        None if pretrained is None else str(pretrained),
        None if preprocessing is None else str(preprocessing),
    )


def _stream_batch(default: int, *, _root_: DictConfig) -> int:
    """`${stream_batch:32}`: how many images of a stream arrive together, by default as many."""
    given = _root_.stream.batch_size
    return default if given is None else given


def _threshold(value: int, table: Mapping[int, Any]) -> Any:
    """`${threshold:${shots},{1: 50, 8: 200}}`: the entry of the largest key not above the value."""
    return table[max(key for key in table if key <= max(value, min(table)))]


def _collection(name: str) -> str:
    """`${collection:eleven}`: its datasets, separated by commas as a sweep wants them."""
    return ",".join(_table(CONFIG_DIR / "collections.yaml")[name])


def _clip_benchmark_name(task: str | None) -> str:
    """`${clip_benchmark_name:vtab/cifar100}`: how its repositories and tables write a task."""
    return "clip_benchmark" if task is None else str(task).removeprefix("wds/").replace("/", "-")


def _clip_benchmark_templates(folder: str) -> ListConfig | None:
    """`${clip_benchmark_templates:FOLDER}`: those that lie beside the shards; null before that."""
    try:
        text = (Path(folder) / "zeroshot_classification_templates.txt").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    lines = [line.strip().replace("{c}", "{}") for line in text.splitlines()]
    return ListConfig([line for line in lines if line])


OmegaConf.register_new_resolver("settings", _setting, replace=True)
OmegaConf.register_new_resolver("backbone_name", _backbone_name, replace=True)
OmegaConf.register_new_resolver("stream_batch", _stream_batch, replace=True)
OmegaConf.register_new_resolver("threshold", _threshold, replace=True)
OmegaConf.register_new_resolver("collection", _collection, replace=True)
OmegaConf.register_new_resolver("clip_benchmark_name", _clip_benchmark_name, replace=True)
OmegaConf.register_new_resolver("clip_benchmark_templates", _clip_benchmark_templates, replace=True)
OmegaConf.register_new_resolver("project", lambda path: str(ROOT / path), replace=True)
