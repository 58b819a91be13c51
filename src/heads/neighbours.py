"""The exact nearest neighbours of all images among themselves."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 512
"""Rows that are compared with all later ones at a time: 100 MB with ImageNet's 50,000."""


def nearest(rows: Float[Tensor, "n d"], k: int) -> tuple[Float[Tensor, "n m"], Int[Tensor, "n m"]]:
    """Find the k other rows of the largest product with each row, by comparing all pairs.

    A pair is compared once, as one of a strip of `ROWS` rows with all rows from the strip on: half
    the products of comparing each row with all others, which are nearly all of the time, and no
    `[n, n]` matrix. The strip's rows take their best of it, and so do those later rows of which
    one in it is nearer than the k-th so far.

    Args:
        rows: the images' features, of length 1 where the product is to be the cosine similarity.
        k: how many neighbours to find.

    Returns:
        The products, of the rows' dtype, in descending order, and the int64 numbers of the
        neighbours. A row is no neighbour of its own, but others that equal it are. m is k, or
        n - 1 if there are fewer others. Among equal products any may be taken.
    """
    n = len(rows)
    k = max(min(k, n - 1), 0)
    best = rows.new_full((n, k), -math.inf)
    index = torch.zeros((n, k), dtype=torch.int64, device=rows.device)
    if not k:
        return best, index
    buffer = rows.new_empty(min(ROWS, n) * n)
    for start in range(0, n, ROWS):
        stop = min(start + ROWS, n)
        strip = buffer[: (stop - start) * (n - start)].view(stop - start, n - start)
        torch.mm(rows[start:stop], rows[start:].T, out=strip)
        strip.diagonal().fill_(-math.inf)
        found, at = strip.topk(min(k, n - start), dim=1)
        _take(best, index, torch.arange(start, stop, device=rows.device), found, at + start)
        later = strip[:, stop - start :]
        better = later.amax(dim=0) > best[stop:, -1]
        chosen = better.nonzero().squeeze(1)
        found, at = later.T[chosen].topk(min(k, stop - start), dim=1)
        _take(best, index, chosen + stop, found, at + start)
    return best, index


def _take(
    best: Float[Tensor, "n k"],
    index: Int[Tensor, "n k"],
    which: Int[Tensor, " m"],
    found: Float[Tensor, "m j"],
    at: Int[Tensor, "m j"],
) -> None:
    """Merge candidates of some rows into the best ones so far."""
    both, numbers = torch.cat([best[which], found], 1), torch.cat([index[which], at], 1)
    best[which], order = both.topk(best.shape[1], dim=1)
    index[which] = numbers.gather(1, order)
