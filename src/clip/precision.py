"""The precision in which CLIP computes features, by Lightning's names."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator

AUTO = "auto"
FLOAT32 = "32-true"
BFLOAT16 = "bf16-true"
UNITS = ("amx_bf16", "avx512_bf16")


def resolve(precision: str, trainer: Callable[..., Trainer]) -> str:
    """Choose what `auto` stands for; any other precision is kept.

    Args:
        precision: `auto`, or Lightning's name of a precision.
        trainer: makes the Trainer that will extract, and so knows on what.

    Returns:
        For `auto`, bfloat16 on a processor with units for it, where CLIP runs two to three times
        as fast; float32 on any other processor, where bfloat16 is slower, and on GPUs, where
        nothing was measured.
    """
    if precision != AUTO:
        return precision
    suits = has_bfloat16_units() and isinstance(trainer().accelerator, CPUAccelerator)
    return BFLOAT16 if suits else FLOAT32


def has_bfloat16_units() -> bool:
    """Say whether the processor multiplies in bfloat16, and torch was not told to do without.

    `ATEN_CPU_CAPABILITY=avx2` in the environment tells it so.
    """
    # Older versions of torch do not say what the processor can do.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    in_use = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return in_use and any(capabilities.get(unit, False) for unit in UNITS)
