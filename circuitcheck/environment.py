"""What numbers depend on besides the model: library versions and the processor's instruction set."""

from __future__ import annotations

from importlib.metadata import version
from platform import python_version
from typing import Any

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """Versions and instruction set; no host names, no times of day."""
    import torch

    return {
        "circuitcheck": version("circuitcheck"),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": python_version(),
    }
