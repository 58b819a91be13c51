"""What the choices of conf/ say of themselves, as tables."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from docs.generator.markdown import escape, table
from src.choices import leading_comment
from src.files import CONFIG_DIR


def files(group: str) -> list[Path]:
    return sorted((CONFIG_DIR / group).glob("*.yaml"))


def choices(group: str, heading: str) -> Callable[[], str]:
    """Make a region: what each choice of a group says of itself."""

    def region() -> str:
        rows = [[f"`{path.stem}`", escape(leading_comment(path))] for path in files(group)]
        return table([f"`{heading}=`", "what it does"], rows)

    return region


def backbones() -> str:
    """Write the table of backbones, with the licence of their weights."""
    rows = []
    for path in files("backbone"):
        own: Any = OmegaConf.load(path)
        architecture, pretrained = (own.get(key) for key in ("architecture", "pretrained"))
        if path.stem != "precomputed":
            local = str(architecture).startswith("local-dir:")
            model = ["embedded, in `src/clip/tiny`", ""] if local else [
                f"`{architecture}`", f"`{pretrained}`"]  # fmt: skip
            rows.append([f"`{path.stem}`", *model, escape(own.licence)])
    return table(["`backbone=`", "architecture in open_clip", "weights", "licence"], rows)


def recipes() -> str:
    """Write the table of recipes: the question that each asks."""
    rows = []
    for path in files("experiment"):
        question = re.search(r"# Question: (.*?)\n# [A-Z]\w+", path.read_text(), re.DOTALL)
        assert question, path
        text = " ".join(line.strip("# ") for line in question[1].splitlines())
        rows.append([f"`{path.stem}`", escape(text)])
    return table(["`+experiment=`", "its question"], rows)
