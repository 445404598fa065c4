"""Versions of what numbers depend on."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def versions() -> dict[str, Any]:
    """Of circuitcheck, of the libraries that compute, and of Python; no host names, no times of day."""
    return {
        "circuitcheck": version("circuitcheck"),
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": python_version(),
    }


KERNELS = ("torchao", "bitsandbytes", "compressed-tensors", "llama-cpp-python", "onnxruntime")
"""Packages whose kernels candidates may run in, where they are installed."""


def installed() -> dict[str, str]:
    """Everything installed that numbers depend on, name to version; of this package the code itself."""
    found = {"code": code_fingerprint(), "python": python_version()}
    return found | {name: _version(name) for name in (*LIBRARIES, *KERNELS)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def code_fingerprint() -> str:
    """SHA-256 of this package's own code: what a version number does not say of a checkout that is worked on."""
    total = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        total.update(f"{file.relative_to(PACKAGE).as_posix()}\n".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()
