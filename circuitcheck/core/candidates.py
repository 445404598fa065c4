"""Names of what a candidate can be; light, so that the plugin can know them without loading torch."""

from __future__ import annotations

import re

EMBEDDED = "embedded"
"""The model that ships with the package."""

DEFAULT_CANDIDATES = ("f32", "f16", "bf16", "int8-sim")
"""What is gated where nothing is named."""

RTN = ("int8-rtn", "int4-rtn", "int3-rtn", "int2-rtn")
"""Weights rounded to nearest, by circuitcheck itself."""

TORCHAO = ("int8", "int8-weight", "int4-weight", "float8-weight")
BITSANDBYTES = ("bnb-int8", "bnb-nf4")
"""Quantized by the library of that name, with its own kernels."""

PRECISIONS = (*DEFAULT_CANDIDATES, *RTN, *TORCHAO, *BITSANDBYTES)
"""Candidates that are made from the reference when it is loaded."""

SAVED = "saved"
"""The precision of a release that is loaded as it was saved."""

FLOATS = ("f32", "f16", "bf16")
"""Those of them that are no more than a type of float."""

GGUF, ONNX = ".gguf", ".onnx"
"""Endings of releases that are one file, or of the file in whose directory all of them lie."""

VARIANT = re.compile(r"(.+\.gguf)@(\w+=[\w.-]*)", re.DOTALL)
"""A file, and what is to be changed about how it runs."""

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")


def split_variant(candidate: str) -> tuple[str, str]:
    """A candidate's path or name, and the variant of it that is meant, such as `kv=q8_0`; empty for it as it is."""
    found = VARIANT.fullmatch(candidate)
    return (found[1], found[2]) if found else (candidate, "")


def is_hub_id(name: str) -> bool:
    """Whether a name that nothing lies under can be that of a model on the hub, `owner/name`."""
    return _HUB_ID.fullmatch(name) is not None and not name.endswith((GGUF, ONNX))
