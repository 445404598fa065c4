"""What executes a model here, and what its numbers depend on."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from circuitcheck.runtimes.onnx.ort_session import threads


def environment() -> dict[str, Any]:
    """Versions, device and instruction set, as of a reference, and the library that runs this model."""
    from circuitcheck.runtimes.pytorch.environment import environment as of_references

    found = of_references()
    return found | {"libraries": found["libraries"] | {name: version(name) for name in ("onnxruntime", "onnx")}}


def executed_by() -> str:
    """In words."""
    count = threads()
    return f"ONNX Runtime {version('onnxruntime')}, on the CPU, in {count} thread{'s' if count > 1 else ''}"
