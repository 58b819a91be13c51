"""A batch in parts that threads of the processor encode at the same time."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import gcd

import torch
from torch import Tensor

AT_A_TIME = 16
"""Images in a part. Fixed, so that features do not depend on how many threads there are. With
fewer, a single thread of torch convolves 1 × 1 in float32 by another library, and RN50 takes 1.3
times as long."""


def in_parts(encode: Callable[[Tensor], Mapping[str, Tensor]], images: Tensor) -> dict[str, Tensor]:
    """Encode a batch in parts, as many at the same time as share torch's threads evenly.

    The threads that torch lets work on one layer wait for each other at its end, a hundred times
    in a pass, and where decoding or other work takes a processor from one of them, the others wait
    with it. Threads with a part of the batch each wait once.

    Args:
        encode: gives features by name; called from several threads.
        images: `[n, ...]`, in the processor's memory.

    Returns:
        The features of all images, `[n, ...]`.
    """
    parts = torch.split(images, AT_A_TIME)
    threads = torch.get_num_threads()
    at_once = gcd(threads, len(parts))
    if at_once == 1:
        found = [encode(part) for part in parts]
    else:
        with ThreadPoolExecutor(at_once, "encode", _take, (threads // at_once,)) as pool:
            found = list(pool.map(encode, parts))
        torch.set_num_threads(threads)  # for threads that start later
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def _take(threads: int) -> None:
    """Have torch use so many threads in this one."""
    torch.get_num_threads()  # The first use in a thread would set it to all threads.
    torch.set_num_threads(threads)
