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
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": python_version(),
    }
