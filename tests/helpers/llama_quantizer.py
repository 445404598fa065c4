"""Releases as llama.cpp's own quantizer makes them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

from circuitcheck.runtimes.llamacpp.binding import load_binding


def requantized(file: Path, form: str, name: str = "", types: Mapping[str, str] | None = None) -> Path:
    """A file of `llama-quantize`.

    Args:
        file: in float32.
        form: such as `Q4_K_M`.
        name: of the new file, which lies beside it; the form by default.
        types: pattern of tensors' names to a type of theirs, as `--tensor-type` takes it.
    """
    llama = load_binding().llama
    target = file.with_name(f"{name or form}.gguf")
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{form}"), 1
    entries = list((types or {}).items())
    overrides = (llama.llama_model_tensor_override * (len(entries) + 1))()  # the last one ends the list
    for override, (pattern, kind) in zip(overrides, entries, strict=False):
        override.pattern, override.type = pattern.encode(), getattr(llama, f"GGML_TYPE_{kind}")
    if entries:
        parameters.tt_overrides = overrides
    if llama.llama_model_quantize(str(file).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise ValueError(f"{file} cannot be made into {form}")
    return target
