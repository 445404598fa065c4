"""Round to nearest: the simplest weight-only quantization, always at hand and the same on every machine.

A group of weights that share a scale is one output channel, or a run of `group_size` inputs of one. Symmetric: scale =
max|w| / (2^(bits - 1) - 1), code = round(w / scale). The weights stay float tensors that hold code times scale, which
is the arithmetic of every weight-only kernel that unpacks its weights before the product; memory is not saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.core.phrases import listed
from circuitcheck.runtimes.pytorch.ports.structure import Structure

GROUP = 32
"""Weights that share a scale below 8 bits, where nothing else is asked for; as in GGUF's 4-bit blocks."""


class RoundedWeight(nn.Parameter):
    """A float weight that holds integer codes times scales.

    Attributes:
        bits: of a code.
    """

    bits: int

    def __new__(cls, data: Tensor, bits: int) -> RoundedWeight:
        """Marks `data`, which is not copied."""
        weight: RoundedWeight = Tensor._make_subclass(cls, data, False)
        weight.bits = bits
        return weight

    def __deepcopy__(self, memo: dict[int, Any]) -> RoundedWeight:
        copy = memo.get(id(self))
        if copy is None:
            copy = memo[id(self)] = RoundedWeight(self.data.clone(), self.bits)
        return copy


@dataclass(frozen=True)
class LinearWeight:
    """One weight of a linear map, or of a stack of them.

    Attributes:
        path: module path of the module that holds it.
        module: that module.
        name: of the parameter.
        transposed: whether inputs come before outputs, as in GPT-2's `Conv1D`.
    """

    path: str
    module: nn.Module
    name: str
    transposed: bool

    @property
    def weight(self) -> Tensor:
        """`[..., out, in]`, or `[..., in, out]` where transposed."""
        return self.module.get_parameter(self.name)


def quantize_rtn(
    module: nn.Module,
    structure: Structure,
    bits: int,
    *,
    group_size: int | None = None,
    stochastic_seed: int | None = None,
) -> tuple[str, ...]:
    """Rounds the weights of all linear maps inside the layers, in place; embeddings and unembedding stay as they are.

    Args:
        module: a freshly loaded model.
        structure: where its layers are.
        bits: of a code, 2 to 8.
        group_size: inputs that share a scale; by default all of an output channel at 8 bits, and 32 below.
        stochastic_seed: rounds up or down at random, unbiased, instead of to the nearest.

    Returns:
        Which weights got another group size, and which inside the layers stay float.

    Raises:
        ConfigurationError: another number of bits, or a group size below 1.
        ModelError: the layers hold no linear map that could be rounded.
    """
    if not 2 <= bits <= 8 or (group_size is not None and group_size < 1):
        raise ConfigurationError(
            f"cannot round to {bits} bits in groups of {group_size}: give 2 to 8 bits, and groups from 1 up."
        )
    wanted = group_size if group_size is not None or bits == 8 else GROUP
    generator = None if stochastic_seed is None else torch.Generator().manual_seed(stochastic_seed)
    found = list(linear_weights(module, structure))
    if not found:
        raise ModelError(
            f"{type(module).__name__}: nothing was quantized: its layers hold no linear map that is known."
        )
    whole: list[str] = []
    notes: list[str] = []
    for part in found:
        weight = part.weight.detach()
        inputs = weight.shape[-2 if part.transposed else -1]
        group = None if wanted is None or inputs % wanted else wanted
        whole += [part.path] if group != wanted else []
        rows = weight.transpose(-1, -2) if part.transposed else weight
        rounded = dequantize(*round_weight(rows, bits, group, generator)).to(weight.dtype)
        rounded = rounded.transpose(-1, -2).contiguous() if part.transposed else rounded
        setattr(part.module, part.name, RoundedWeight(rounded, bits))
    if whole:
        where = listed(whole, 4)
        notes = [f"Groups of {wanted} do not divide the inputs of {where}: one scale for each output channel there."]
    return (*notes, *float_notes(module, structure))


def round_weight(
    weight: Tensor, bits: int, group_size: int | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Codes and scales of a weight.

    Args:
        weight: `[..., out, in]`.
        bits: of a code.
        group_size: inputs that share a scale; a divisor of `in`, or None for all of them.
        generator: of the random numbers of stochastic rounding; None rounds to the nearest.

    Returns:
        Codes between plus and minus 2^(bits - 1) - 1, int8, `[..., out, groups, group_size]`, and positive scales,
        float32, `[..., out, groups, 1]`.
    """
    levels = 2 ** (bits - 1) - 1
    groups = weight.detach().float().reshape(*weight.shape[:-1], -1, group_size or weight.shape[-1])
    largest = groups.abs().amax(-1, keepdim=True)
    # Below the smallest normal scale the quotient would lose digits; such weights are as good as zero.
    scale = torch.where(largest / levels > torch.finfo(torch.float32).tiny, largest / levels, 1.0)
    steps = groups / scale
    if generator is None:
        codes = steps.round()
    else:
        codes = (steps + torch.rand(steps.shape, generator=generator).to(steps.device)).floor()
    return codes.clamp(-levels, levels).to(torch.int8), scale


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """Code times scale, float32, `[..., out, in]`."""
    return (codes * scale).flatten(-2)


def linear_weights(module: nn.Module, structure: Structure) -> Iterator[LinearWeight]:
    """The weights of all linear maps inside the layers, also of experts that hold theirs in stacks."""
    for site in structure.layers:
        for path, part in module.get_submodule(site.path).named_modules(prefix=site.path):
            if isinstance(part, nn.Linear | Conv1D):
                if is_float(part.weight):
                    yield LinearWeight(path, part, "weight", isinstance(part, Conv1D))
            elif isinstance(getattr(part, "is_transposed", None), bool):  # set by transformers on stacks of experts
                for name, parameter in part.named_parameters(recurse=False):
                    if parameter.dim() == 3 and is_float(parameter):
                        yield LinearWeight(path, part, name, bool(part.is_transposed))


def is_float(weight: Tensor) -> bool:
    """Whether it is an ordinary floating-point tensor, and not a quantized one in disguise."""
    return type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point()


def float_notes(module: nn.Module, structure: Structure) -> tuple[str, ...]:
    """Names the matrices inside the layers that are still float, such as those of a router."""
    left = [
        f"{site.path}.{name}"
        for site in structure.layers
        for name, parameter in module.get_submodule(site.path).named_parameters()
        if parameter.dim() > 1 and is_float(parameter)
    ]
    return (f"Inside the layers these weights stay float: {listed(left, 4)}.",) if left else ()
