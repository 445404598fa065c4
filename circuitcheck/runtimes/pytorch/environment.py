"""What numbers depend on besides the model: library versions and the processor's instruction set."""

from __future__ import annotations

from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Versions, device and instruction set; no host names, no times of day.

    Args:
        device: where the model ran; the CPU if not given.
    """
    import torch

    on_gpu = device is not None and device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu" if device is None else device.type,
        "circuitcheck": version("circuitcheck"),
        "instruction_set": _instruction_set(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": python_version(),
    }


def _instruction_set() -> str:
    """What the CPU kernels of quantized models choose between, such as `AVX512 BF16 VNNI AMX`."""
    import torch

    extensions = {
        "BF16": torch.cpu._is_avx512_bf16_supported,
        "VNNI": torch.cpu._is_vnni_supported,
        "AMX": torch.cpu._is_amx_tile_supported,
    }
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(name for name, has in extensions.items() if has())])
