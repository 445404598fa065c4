"""The types that a model can be loaded in, and what reports call them."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from circuitcheck.core.candidates import BITSANDBYTES, PRECISIONS, RTN, SAVED, TORCHAO
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.runtimes.pytorch.loading.gguf import GGUFContent

DTYPES: dict[str, torch.dtype | str] = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "int8-sim": torch.float32,
    **dict.fromkeys((*RTN, *TORCHAO, *BITSANDBYTES), torch.float32),
    SAVED: "auto",
}
"""Precision to the type that weights are loaded in, and quantized from; `saved` keeps what the files hold."""

NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
GGUF_NAMES = {"F16": "f16", "BF16": "bf16"}


def dtype_for(precision: str) -> torch.dtype | str:
    """The type that weights are loaded in.

    Raises:
        ConfigurationError: there is no such precision.
    """
    if precision not in DTYPES:
        raise ConfigurationError(f"unknown precision {precision!r}: it is none of {', '.join((*PRECISIONS, SAVED))}.")
    return DTYPES[precision]


def precision_of(module: nn.Module) -> str:
    """The precision that most of a plain model's parameters have."""
    sizes: Counter[str] = Counter()
    for parameter in module.parameters():
        sizes[NAMES.get(parameter.dtype, str(parameter.dtype).removeprefix("torch."))] += parameter.numel()
    return sizes.most_common(1)[0][0]


def stored_precision(content: GGUFContent) -> str:
    """The precision of a GGUF file that is not quantized: the type of most of its projections' weights."""
    sizes: Counter[str] = Counter()
    for tensor in content.tensors:
        if tensor.is_projection:
            sizes[GGUF_NAMES.get(tensor.weight, "f32")] += tensor.parameters
    return sizes.most_common(1)[0][0] if sizes else "f32"
