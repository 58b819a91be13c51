"""What is known of the licences of CLIP's weights, for those who use what was adapted.

The YAML of a backbone in `conf/backbone` states it. A model that has none there stands under the
licence of its publisher's models that have one, and its tag or its architecture tells whose it is.
"""

from functools import cache
from typing import Any

import yaml

from src.clip.weights import LOCAL_DIR
from src.files import CONFIG_DIR, ROOT

OF_TAGS = {
    "openai": "vit_b32",
    "laion": "laion_b32",
    "datacomp_": "datacomp_b16",
    "commonpool_": "datacomp_b16",
    "datacompdr": "mobileclip2_s0",
    "dfn": "dfn_b16",
    "webli": "siglip_b16",
    "metaclip": "metaclip_b16",
    "merged2b": "eva02_b16",
}
"""What tags begin with, and a backbone of the same publisher under the same licence."""
OF_ARCHITECTURES = {"EVA": "eva02_b16", "PE-Core": "pe_core_b16"}
"""The same for architectures all of whose tags are one publisher's."""
UNKNOWN = "The licence of the weights is not known here: ask where they come from."
OWN = "tiny"
"""The backbone whose weights come with Calipers."""


def licence(pretrained: str | None, architecture: str) -> str:
    """Say under what licence weights are, as far as it is known.

    Args:
        pretrained: open_clip's tag, a file, or None.
        architecture: open_clip's name, or `local-dir:` and a folder.
    """
    if architecture.startswith(f"{LOCAL_DIR}{ROOT}/"):
        return _stated(OWN)
    for one in _backbones().values():
        if (one.get("architecture"), one.get("pretrained")) == (architecture, pretrained):
            return str(one.get("licence", UNKNOWN))
    tag = pretrained if pretrained and not {".", "/"} & set(pretrained) else ""  # or a file
    if not tag or "CLIPA" in architecture:  # whose tags begin as those of other publishers
        return UNKNOWN
    known = [name for start, name in OF_ARCHITECTURES.items() if architecture.startswith(start)]
    known += [name for start, name in OF_TAGS.items() if tag.startswith(start)]
    return _stated(known[0]) if known else UNKNOWN


def _stated(name: str) -> str:
    return str(_backbones()[name]["licence"])


@cache
def _backbones() -> dict[str, dict[str, Any]]:
    """Read the backbones of `conf/backbone`, nothing looked up."""
    paths = sorted((CONFIG_DIR / "backbone").glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text()) for path in paths}
