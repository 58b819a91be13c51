"""The datasets: a table, a section for each, and what their readers look for."""

import inspect
import sys
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from hydra.utils import get_object
from omegaconf import OmegaConf

from docs.generator.choices import files
from docs.generator.markdown import bullets, escape, from_docstring, table
from src.choices import leading_comment
from src.files import CONFIG_DIR


@cache
def _dataset(name: str) -> dict[str, Any]:
    """Read a dataset's YAML with what it extends; nothing is looked up."""
    own: Any = OmegaConf.load(CONFIG_DIR / "dataset" / f"{name}.yaml")
    extended: list[Any] = []
    for one in own.pop("defaults", []):
        if isinstance(one, str) and one != "_self_":
            extended.append(_dataset(one))
        elif OmegaConf.is_dict(one) and (templates := one.get("/templates@_here_")):
            extended.append(OmegaConf.load(CONFIG_DIR / "templates" / f"{templates}.yaml"))
    merged = OmegaConf.merge(*extended, own)
    return cast(dict[str, Any], OmegaConf.to_container(merged))


def datasets() -> str:
    """Write the table of datasets."""
    rows = []
    for path in files("dataset"):
        own = _dataset(path.stem)
        totals = own.get("totals") or {}
        counts = [f"{totals[key]:,}" if key in totals else "" for key in
                  ("classes", "train", "val", "test")]  # fmt: skip
        rows.append([f"[`{path.stem}`](#{path.stem})", *counts, _source(own)])
    return table(["`dataset=`", "classes", "train", "val", "test", "how to get it"], rows)


def _source(dataset: dict[str, Any]) -> str:
    """Say in a few words where a dataset comes from."""
    ways = []
    if dataset.get("downloads") or dataset.get("snapshot"):
        ways.append("`src.prepare`")
    if dataset.get("by_hand"):
        ways.append("partly by hand" if ways else "by hand")
    if not ways:
        if "path" not in dataset["reader"]:
            ways.append("embedded")
        else:  # of another dataset than your own, the YAML knows where it is
            own = "${" in str(dataset["reader"]["path"])
            ways.append("yours" if own else "fetched by a run, from the Hub")
    return ", ".join(ways)


def dataset_sections() -> str:
    """Write a section for each dataset: what it is, prompts, files, licence, counts."""
    return "\n".join(_dataset_section(path) for path in files("dataset")) + "\n" + _readers()


def _dataset_section(path: Path) -> str:
    raw = _dataset(path.stem)
    out = [f"### {path.stem}", "", escape(leading_comment(path)), ""]
    rows = [["licence", escape(raw["licence"])]]
    if isinstance(prompts := raw.get("templates"), list):
        more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
        rows.append(["prompt", f"`{prompts[0]}`{more}"])
    root = str(raw["reader"].get("root", "")).replace("${paths.data}", "data")
    if root:
        rows.append(["folder", f"`{root}`"])
    read = raw["reader"]["_target_"]
    rows.append(["read by", f"[`{read}`](#{_anchor(read)})"])
    for one in raw.get("downloads", []):
        host = urlsplit(one["url"]).hostname
        name = Path(urlsplit(one["url"]).path).name
        checked = f"checked by {_kind(one['checksum'])}" if one.get("checksum") else "no checksum"
        rows.append(["fetched", f"`{name}` from {host}, {checked}"])
    for one in raw.get("by_hand", []):
        rows.append(["by hand", f"`{one['to']}`: {escape(str(one['where']))}"])
    return "\n".join(out) + "\n" + bullets(rows)


def _kind(checksum: str) -> str:
    return {"md5": "MD5", "sha256": "SHA-256"}.get(checksum.partition(":")[0], checksum)


def _anchor(target: str) -> str:
    return target.replace(".", "").lower()


def _readers() -> str:
    """Write what each reader's docstring says of the layout."""
    targets = sorted({_dataset(path.stem)["reader"]["_target_"] for path in files("dataset")})
    out = ["## Layouts", "", "What the readers look for, and what stops them.", ""]
    said: set[str] = set()
    for target in targets:
        read = get_object(target)
        module = sys.modules[read.__module__]
        out += [f"### {target}", ""]
        if module.__name__ not in said:
            out.append(from_docstring(module.__doc__ or ""))
            said.add(module.__name__)
        out.append(from_docstring(inspect.getdoc(read) or ""))
    return "\n".join(out)
