"""Rounding a model in memory to what a candidate claims."""

from __future__ import annotations

from typing import Any

from torch import nn

from circuitcheck.runtimes.pytorch.ports.structure import resolve
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn


def round_to(module: nn.Module, precision: str) -> None:
    """In place; a precision is `f32`, which changes nothing, `f16`, or round to nearest such as `int4-rtn`."""
    model: Any = module
    if precision == "f16":
        model.half()
    elif precision != "f32":
        quantize_rtn(model, resolve(model), int(precision.removeprefix("int").removesuffix("-rtn")))
