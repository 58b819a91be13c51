"""Weights in the layout of transformers' `CLIPModel`, renamed to open_clip's `CLIP`."""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

NAMES = (
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding", "visual.conv1"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm", "visual.ln_pre"),  # their spelling
    (r"vision_model\.post_layernorm", "visual.ln_post"),
    (r"text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm", "ln_final"),
    (r"vision_model\.encoder\.layers", "visual.transformer.resblocks"),
    (r"text_model\.encoder\.layers", "transformer.resblocks"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)
"""What a part of a name becomes."""
TRANSPOSED = {
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
}
"""Linear layers of transformers that are matrices in open_clip."""
QUERY, KEY, VALUE = ".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."
JOINED = ".attn.in_proj_"
POSITIONS = "embeddings.position_ids"
"""The numbers 0, 1, 2, ..., which files of older versions hold."""


def is_in_layout(keys: Collection[str]) -> bool:
    """Say whether weights are those of one of transformers' image-text models."""
    return any(key.startswith("vision_model.") for key in keys)


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of transformers' `CLIPModel`; queries, keys and values are joined.

    Args:
        state: the weights by the names of transformers.

    Returns:
        The same weights by the names of open_clip's `CLIP` with a vision transformer.

    Raises:
        ValueError: they are those of another model of transformers.
    """
    if "visual_projection.weight" not in state or "text_projection.weight" not in state:
        other = "SigLIP" if "vision_model.head.probe" in state else "another model than CLIP"
        raise ValueError(
            f"it is {other} in the layout of transformers, of which only CLIP's is known here; "
            "open_clip publishes its own files"
        )
    converted = {}
    for key, tensor in state.items():
        if key.endswith(POSITIONS) or KEY in key or VALUE in key:
            continue
        if key in TRANSPOSED:
            converted[TRANSPOSED[key]] = tensor.T.contiguous()
        elif QUERY in key:
            parts = [state[key.replace(QUERY, one)] for one in (QUERY, KEY, VALUE)]
            converted[_renamed(key.replace(QUERY, JOINED))] = torch.cat(parts)
        else:
            converted[_renamed(key)] = tensor
    return converted


def _renamed(key: str) -> str:
    for pattern, name in NAMES:
        key = re.sub(pattern, name, key)
    return key
