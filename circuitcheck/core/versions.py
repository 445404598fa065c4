"""Versions of what numbers depend on."""

from __future__ import annotations

from importlib.metadata import version
from platform import python_version
from typing import Any

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def versions() -> dict[str, Any]:
    """Of circuitcheck, of the libraries that compute, and of Python; no host names, no times of day."""
    return {
        "circuitcheck": version("circuitcheck"),
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": python_version(),
    }
