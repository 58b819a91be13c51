"""The attention pooling that OpenAI's ResNets end in: for an image, and for each position."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# `pool` is an `AttentionPool2d` of open_clip; its last layer, `c_proj`, is left to the caller.


def pool_image(pool: Any, tokens: Float[Tensor, "n s width"]) -> Float[Tensor, "n w"]:
    """Compute what the last layer takes for an image, with the mean's token as query.

    For a single query, the projections of keys and values are applied to what is compared with
    the positions and to what is attended to, once an image in place of once a position: q · (W x)
    is (Wᵀ q) · x, and the keys' bias adds the same to all positions.
    """
    tokens = _with_mean(pool, tokens)
    query, key, value = (
        weights.unflatten(0, (pool.num_heads, -1))
        for weights in (pool.q_proj(tokens[:, 0]).T, pool.k_proj.weight, pool.v_proj.weight)
    )
    sought = query.permute(0, 2, 1) @ key  # [heads, n, width]
    affinity = sought.transpose(0, 1) @ tokens.mT / math.sqrt(key.shape[1])
    attended = affinity.softmax(dim=-1) @ tokens  # [n, heads, width]
    joined: Tensor = (attended.transpose(0, 1) @ value.mT).transpose(0, 1).flatten(start_dim=1)
    return joined + pool.v_proj.bias


def pool_positions(pool: Any, tokens: Float[Tensor, "n s width"]) -> Float[Tensor, "n s w"]:
    """Compute what the last layer takes for each position, with its own token as query."""
    tokens = _with_mean(pool, tokens)
    query, key, value = (
        project(each).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for project, each in (
            (pool.q_proj, tokens[:, 1:]), (pool.k_proj, tokens), (pool.v_proj, tokens)
        )
    )  # fmt: skip
    attended = scaled_dot_product_attention(query, key, value)
    return attended.transpose(1, 2).flatten(start_dim=2)


def _with_mean(pool: Any, tokens: Float[Tensor, "n s width"]) -> Float[Tensor, "n 1+s width"]:
    """Put the mean's token before those of the positions, and add their embeddings."""
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    return tokens + pool.positional_embedding.to(tokens.dtype)
