"""GGUF files, run by llama.cpp itself, with its kernels, its activation types and its cache."""

from __future__ import annotations

from pathlib import Path

from circuitcheck.core.candidates import GGUF


def takes(path: Path) -> bool:
    """Whether a candidate is a GGUF file, or a directory whose only weights are in such files."""
    if path.suffix == GGUF:
        return path.is_file()
    return path.is_dir() and any(path.glob(f"*{GGUF}")) and not any(path.glob("*.safetensors"))
