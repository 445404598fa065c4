"""Quantized candidates that are made in memory from the reference: one table of names, one way to make each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from circuitcheck.core.candidates import BITSANDBYTES, TORCHAO
from circuitcheck.runtimes.pytorch.ports.structure import Structure
from circuitcheck.runtimes.pytorch.quantizers.native import quantize_bitsandbytes, quantize_torchao
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn

Recipe = Callable[[nn.Module, Structure], tuple[str, ...]]
"""Quantizes the linear maps inside the layers of a freshly loaded float32 model in place, on its device; embeddings and
unembedding stay as they are. Returns what a reader of the report must know. Raises ModelError where the extra that it
needs is not installed, or where it cannot quantize this model."""

RECIPES: dict[str, Recipe] = {
    "int8-rtn": partial(quantize_rtn, bits=8),
    "int4-rtn": partial(quantize_rtn, bits=4),
    "int3-rtn": partial(quantize_rtn, bits=3),
    "int2-rtn": partial(quantize_rtn, bits=2),
    **{spec: partial(quantize_torchao, spec=spec) for spec in TORCHAO},
    **{spec: partial(quantize_bitsandbytes, spec=spec) for spec in BITSANDBYTES},
}
"""Spec to recipe. The modules of this package import neither torchao nor bitsandbytes before a recipe needs them."""
