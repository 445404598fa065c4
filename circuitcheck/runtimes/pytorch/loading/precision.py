"""The types that a model can be loaded in, and what reports call them."""

from __future__ import annotations

import torch
from torch import nn

from circuitcheck.core.candidates import PRECISIONS, SAVED
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.runtimes.pytorch.quantizers.recipes import RECIPES, dtype_of

DTYPES: dict[str, torch.dtype | str] = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "int8-sim": torch.float32,
    SAVED: "auto",
}
"""Precision to the type that weights are loaded in; `saved` keeps what the files hold."""

NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def dtype_for(precision: str) -> torch.dtype | str:
    """The type that weights are loaded in.

    Raises:
        ConfigurationError: there is no such precision.
    """
    if precision in RECIPES:
        return dtype_of(precision)
    if precision not in DTYPES:
        raise ConfigurationError(f"unknown precision {precision!r}: it is none of {', '.join((*PRECISIONS, SAVED))}.")
    return DTYPES[precision]


def precision_of(module: nn.Module) -> str:
    """The precision that most of a plain model's parameters have."""
    sizes: dict[str, int] = {}
    for parameter in module.parameters():
        name = NAMES.get(parameter.dtype, str(parameter.dtype).removeprefix("torch."))
        sizes[name] = sizes.get(name, 0) + parameter.numel()
    return max(sizes, key=lambda name: sizes[name])
