"""Finds the weights that a model in memory was really loaded with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from types import MethodType
from typing import Any

from torch import Tensor, nn

from circuitcheck.core.census import Census, FoundWeight, summarize_census
from circuitcheck.runtimes.pytorch.ports.structure import Structure, input_width, output_width

STORED_NAMES = ("weight", "weight_packed", "qweight")
"""What formats call the tensor that holds a linear map's weight."""


def find_weights(module: nn.Module, structure: Structure) -> list[FoundWeight]:
    """All weights of a model in memory, each once; biases of linear maps are left out."""
    return list(_find(module, tuple(f"{site.path}." for site in structure.layers)))


def _find(module: nn.Module, layers: tuple[str, ...]) -> Iterator[FoundWeight]:
    seen: dict[int, Tensor] = {}  # the tensors themselves, so that no other one gets the number of one that is gone
    for path, part in module.named_modules():
        for weight, parameters, is_projection in _weights_in(part, path.startswith(layers)):
            if id(weight) not in seen:
                seen[id(weight)] = weight
                bits, is_quantized = _bits(part, weight, parameters)
                kind = _described(weight)
                yield FoundWeight(type(part).__name__, kind, bits, parameters, is_projection, is_quantized)


def _weights_in(part: nn.Module, is_inside: bool) -> Iterator[tuple[Tensor, int, bool]]:
    """A module's own weights, how many numbers each stands for, and whether it is a linear map inside a layer."""
    inputs, outputs = input_width(part), output_width(part)
    if inputs is not None and outputs is not None:
        stored = _stored(part)
        if stored is not None:
            yield stored, inputs * outputs, is_inside
        return
    for name, parameter in part.named_parameters(recurse=False):
        if name != "bias":
            is_stack = is_inside and parameter.dim() == 3  # experts hold their linear maps in stacks
            yield parameter, parameter.numel(), is_stack


def _stored(part: nn.Module) -> Tensor | None:
    """The tensor that holds a linear map's weight; the largest that is no bias where its name is not known."""
    for name in STORED_NAMES:
        found: Any = getattr(part, name, None)
        found = found() if isinstance(found, MethodType) else found  # PyTorch's own quantized modules unpack theirs
        if isinstance(found, Tensor):
            return found
    own = chain(part.named_parameters(recurse=False), part.named_buffers(recurse=False))
    return max((tensor for name, tensor in own if name != "bias"), key=lambda tensor: tensor.numel(), default=None)


def _described(weight: Tensor) -> str:
    kind = "" if type(weight) in (Tensor, nn.Parameter, nn.Buffer) else f"{type(weight).__name__} "
    inner = _inner(weight)
    return kind + str((weight if inner is None else inner).dtype).removeprefix("torch.")


def _inner(weight: Tensor) -> Tensor | None:
    """The codes inside a tensor that only looks like a float one."""
    for name in ("qdata", "int_data", "packed_weight", "_data"):
        found = getattr(weight, name, None)
        if isinstance(found, Tensor) and found is not weight:
            return found
    return None


def _bits(part: nn.Module, weight: Tensor, parameters: int) -> tuple[float | None, bool]:
    """Bits of one number, and whether it is quantized."""
    said = _said_bits(part, weight)
    if said is not None:
        return said, True
    inner = _inner(weight)
    codes = weight if inner is None else inner
    if inner is None and weight.is_floating_point() and weight.element_size() > 1:
        return 8.0 * weight.element_size(), False
    if parameters == 0:
        return None, True
    return round(8.0 * codes.element_size() * codes.numel() / parameters, 3), True


def _said_bits(part: nn.Module, weight: Tensor) -> float | None:
    """Bits that the format itself tells, which may be fewer than the type that codes are kept in has."""
    own: Any = getattr(weight, "bits", None)  # of weights that circuitcheck rounded
    if isinstance(own, int):
        return float(own)
    target = re.fullmatch(r"torch\.u?int(\d+)", str(getattr(weight, "target_dtype", "")))
    if target is not None:
        return float(target.group(1))
    if type(part).__name__ == "Linear4bit":
        return 4.0
    scheme: Any = getattr(getattr(part, "quantization_scheme", None), "weights", None)
    return None if scheme is None else float(scheme.num_bits)


def take_census(module: nn.Module, structure: Structure, claim: str | None = None) -> Census:
    """The census of a model in memory that needs no first pass."""
    found = find_weights(module, structure)
    return summarize_census(found, found, claim)
