"""Where a model runs, and what its numbers depend on there: device, instruction set and library versions."""

from __future__ import annotations

from typing import Any

import torch

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.phrases import first_lines
from circuitcheck.core.versions import versions


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Versions, device and instruction set; no host names, no times of day.

    Args:
        device: where the model ran; the CPU if not given.
    """
    on_gpu = device is not None and device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu" if device is None else device.type,
        "instruction_set": _instruction_set(),
        **versions(),
    }


def _instruction_set() -> str:
    """What the CPU kernels of quantized models choose between, such as `AVX512 BF16 VNNI AMX`."""
    extensions = {
        "BF16": torch.cpu._is_avx512_bf16_supported,
        "VNNI": torch.cpu._is_vnni_supported,
        "AMX": torch.cpu._is_amx_tile_supported,
    }
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(name for name, has in extensions.items() if has())])


def resolve_device(device: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is any, and else the CPU.

    Raises:
        ConfigurationError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built with CUDA
        raise ConfigurationError(f"device {device!r} cannot be used here: {first_lines(error)}") from error
    return place
