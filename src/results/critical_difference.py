"""Friedman's test of average ranks, and Nemenyi's critical difference of two of them.

Both as Demšar (JMLR 7, 2006, sections 3.2.1 and 3.2.2) states them. Imports no torch.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import fdtrc, ndtr

LEVEL = 0.05
WIDEST = 20.0
"""Further apart than so many standard deviations are no normal variables, however many."""
STEP = 0.005


def friedman(ranks: Sequence[float], datasets: int) -> float:
    """Compute p of Friedman's test, by the statistic of Iman and Davenport.

    Args:
        ranks: the average rank of each method, two or more.
        datasets: on how many they are averages, two or more.

    Returns:
        The probability that ranks differ as much if all methods are equally good.
    """
    k, n = len(ranks), datasets
    spread = float(np.sum(np.square(ranks))) - k * (k + 1) ** 2 / 4
    chi_square = 12 * n / (k * (k + 1)) * spread
    left = n * (k - 1) - chi_square
    if left <= 1e-9:
        return 0.0  # the same order on every dataset
    statistic = (n - 1) * chi_square / left
    return float(fdtrc(k - 1, (k - 1) * (n - 1), max(statistic, 0.0)))


def nemenyi(methods: int, datasets: int) -> float:
    """Compute by how much two average ranks must differ, at `LEVEL`, for their methods to differ.

    Args:
        methods: how many are ranked, two or more.
        datasets: on how many.
    """
    quantile = studentized_range(methods) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * datasets))


def studentized_range(count: int) -> float:
    """Compute what the range of `count` standard normal variables exceeds with probability `LEVEL`.

    `scipy.stats` has it too, but takes longer to import than a report's tables to make.
    """
    z = np.arange(-8.0, 8.0, STEP)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, WIDEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        # The lowest one is at z, and all others are at most `middle` above it.
        within = count * STEP * np.sum(density * (ndtr(z + middle) - ndtr(z)) ** (count - 1))
        low, high = (low, middle) if within > 1 - LEVEL else (middle, high)
    return high
