"""Golden baselines as a forger would make them: whatever was changed, every checksum is right."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import safetensors
import safetensors.numpy


def checksum(content: dict[str, Any]) -> str:
    """The format's checksum, written anew from its documentation."""
    body = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(spelled(body)).hexdigest()


def spelled(content: Any) -> bytes:
    """JSON as baselines spell it."""
    return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def resealed(content: dict[str, Any], arrays: bytes | None = None) -> bytes:
    """A JSON that vouches for itself, and for other arrays where they are given."""
    content = {key: value for key, value in content.items() if key != "checksum"}
    if arrays is not None:
        known = {"sha256": hashlib.sha256(arrays).hexdigest(), "bytes": len(arrays), "each": _each(arrays)}
        content |= {"arrays": known}
    try:
        return spelled(content | {"checksum": checksum(content)})
    except (TypeError, ValueError, RecursionError):  # what cannot be spelled has no checksum either
        return spelled(content | {"checksum": "0" * 64})


def _each(arrays: bytes) -> dict[str, str]:
    """The beginning of each array's hash; of none where they are no arrays."""
    try:
        found = safetensors.numpy.load(arrays)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError):
        return {}
    return {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in found.items()}


def with_arrays(json_bytes: bytes, changed: dict[str, Any]) -> tuple[bytes, bytes]:
    """The pair of files with these arrays."""
    arrays = safetensors.numpy.save(changed)
    return resealed(json.loads(json_bytes), arrays), arrays
