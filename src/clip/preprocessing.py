"""How images are prepared for a model, where that is not what its weights say."""

import json
from collections.abc import Mapping
from typing import Any

from src.errors import UserError

Preprocessing = str | Mapping[str, Any] | None
"""Setting `backbone.preprocessing`: None, as the weights say; the name of a tag whose images are
prepared so; or some of `mean`, `std`, `interpolation` and `resize_mode`."""
OPENAI = "openai"
KEYS = ("mean", "std", "interpolation", "resize_mode")
"""What open_clip's registry says of each tag. The size is the model's own."""
TWIN = "-quickgelu"


def in_words(preprocessing: Preprocessing) -> str:
    """Write a setting in one line, equal for equal settings."""
    if isinstance(preprocessing, Mapping):
        return json.dumps(dict(preprocessing), sort_keys=True)
    return str(preprocessing)


def marked(weights: str, preprocessing: Preprocessing) -> str:
    """Give the id of weights that of a setting too, where there is one."""
    if preprocessing is None:
        return weights
    return f"{weights}/preprocessing:{in_words(preprocessing)}"


def resolved(preprocessing: Preprocessing, architecture: str) -> dict[str, Any]:
    """Give the keys of a setting, by open_clip's names.

    Args:
        preprocessing: the setting. A tag is looked up among those of the architecture; where there
            is none of that name, among all.
        architecture: open_clip's name, or a folder or model with a configuration of its own.

    Raises:
        UserError: there is no such tag, or architectures of that tag differ.
    """
    from open_clip import pretrained as registry

    if preprocessing is None:
        return {}
    if isinstance(preprocessing, Mapping):
        return dict(preprocessing)
    plain = architecture.removesuffix(TWIN)
    known = [_of(registry.get_pretrained_cfg(plain, preprocessing))]
    if not known[0]:
        models = registry.list_pretrained_models_by_tag(preprocessing)
        known = [_of(registry.get_pretrained_cfg(model, preprocessing)) for model in models]
    if not known:
        raise UserError(
            f"backbone.preprocessing={preprocessing} is no tag of open_clip: give one, as openai, "
            "or 'backbone.preprocessing={mean: [...], std: [...], interpolation: bicubic, "
            "resize_mode: shortest}'."
        )
    if any(one != known[0] for one in known):
        raise UserError(
            f"backbone.preprocessing={preprocessing} is not the same for all architectures that "
            f"have this tag, and {architecture} is none of them: give mean, std, interpolation and "
            "resize_mode."
        )
    return known[0]


def is_openais(published: Mapping[str, Any]) -> bool:
    """Say whether a tag's images are prepared as OpenAI's."""
    from open_clip.transform import PreprocessCfg

    return all(_plain(published[key]) == _plain(getattr(PreprocessCfg, key)) for key in KEYS)


def unlike_openais(architecture: str) -> list[str]:
    """List the tags of an architecture whose images are prepared in another way than OpenAI's."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    return [tag for tag in tags if not is_openais(open_clip.get_pretrained_cfg(architecture, tag))]


def _of(published: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(published[key]) for key in KEYS if key in published}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
