"""Quantized candidates that are made in memory from the reference: one table of names, one way to make each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.runtimes.pytorch.ports.structure import Structure
from circuitcheck.runtimes.pytorch.quantizers.native import quantize_bitsandbytes, quantize_torchao
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn

Make = Callable[[nn.Module, Structure], tuple[str, ...]]


@dataclass(frozen=True)
class Recipe:
    """How a quantized candidate is made.

    Attributes:
        bits: bits of a weight.
        dtype: what the weights are loaded in before they are quantized.
        make: quantizes a freshly loaded model in place, and returns notes for the report.
    """

    bits: int
    dtype: torch.dtype
    make: Make


RECIPES: dict[str, Recipe] = {
    "int8-rtn": Recipe(8, torch.float32, partial(quantize_rtn, bits=8)),
    "int4-rtn": Recipe(4, torch.float32, partial(quantize_rtn, bits=4)),
    "int3-rtn": Recipe(3, torch.float32, partial(quantize_rtn, bits=3)),
    "int2-rtn": Recipe(2, torch.float32, partial(quantize_rtn, bits=2)),
    "int8": Recipe(8, torch.float32, partial(quantize_torchao, spec="int8")),
    "int8-weight": Recipe(8, torch.float32, partial(quantize_torchao, spec="int8-weight")),
    "int4-weight": Recipe(4, torch.float32, partial(quantize_torchao, spec="int4-weight")),
    "float8-weight": Recipe(8, torch.float32, partial(quantize_torchao, spec="float8-weight")),
    "bnb-int8": Recipe(8, torch.float32, partial(quantize_bitsandbytes, spec="bnb-int8")),
    "bnb-nf4": Recipe(4, torch.float32, partial(quantize_bitsandbytes, spec="bnb-nf4")),
}
"""Spec to recipe. The modules of this package import neither torchao nor bitsandbytes before a recipe needs them."""


def quantize(module: nn.Module, structure: Structure, spec: str) -> tuple[str, ...]:
    """Quantizes a freshly loaded model of the recipe's type, in place.

    Args:
        module: the model, in `dtype_of(spec)`, on its device.
        structure: where its layers are; their linear maps are quantized, embeddings and unembedding are not.
        spec: a name of `RECIPES`.

    Returns:
        What a reader of the report must know.

    Raises:
        ConfigurationError: no recipe has that name.
        ModelError: the extra that the recipe needs is not installed, or it cannot quantize this model.
    """
    return _recipe(spec).make(module, structure)


def dtype_of(spec: str) -> torch.dtype:
    """The type that the weights are loaded in before they are quantized.

    Raises:
        ConfigurationError: no recipe has that name.
    """
    return _recipe(spec).dtype


def bits_of(spec: str) -> int:
    """Bits of a weight; limits on drift follow it.

    Raises:
        ConfigurationError: no recipe has that name.
    """
    return _recipe(spec).bits


def _recipe(spec: str) -> Recipe:
    if spec not in RECIPES:
        raise ConfigurationError(f"unknown precision {spec!r}: it is none of {', '.join(RECIPES)}.")
    return RECIPES[spec]
