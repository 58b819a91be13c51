"""Measuring what the machine itself can do: the limits of the other benchmarks."""

import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

GIB = 2**30
ROUNDS = 5
MATRIX = 2048


def name() -> str:
    """Name the processor, its cores, and its units for bfloat16, if any."""
    units = bfloat16_units()
    precision = f"bfloat16 by {' and '.join(units)}" if units else "no bfloat16 units"
    processor = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    return f"{processor}, {torch.get_num_threads()} cores, {precision}"


def bfloat16_units() -> list[str]:
    """List the processor's units for bfloat16."""
    found = torch.cpu.get_capabilities()
    return [unit for unit in ("avx512_bf16", "amx_bf16") if found.get(unit)]


def resident_bytes() -> int:
    """Return the memory that this process holds now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def best_of(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Give the shortest of several rounds, in seconds: what the machine can do undisturbed."""
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def matrix_product_rate(dtype: torch.dtype) -> float:
    """Measure floating-point operations per second of a large matrix product."""
    a, b = (torch.randn(MATRIX, MATRIX).to(dtype) for _ in range(2))
    return 2 * MATRIX**3 / best_of(lambda: a @ b)


def memory_bandwidth() -> float:
    """Measure bytes read and written per second by a copy."""
    source = torch.zeros(GIB, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * GIB / best_of(lambda: target.copy_(source))


def share(seconds: float, operations: float, moved: float = 0) -> str:
    """Say which share of `seconds` the machine would need for the least that has to be done.

    Args:
        seconds: measured.
        operations: floating-point operations of float32 matrix products.
        moved: bytes to be read or written.
    """
    least, what = operations / matrix_product_rate(torch.float32), "its matrix products"
    if moved:
        least, what = least + moved / memory_bandwidth(), f"{what} and memory"
    return f"{least / seconds:.0%} of what {what} allow"
