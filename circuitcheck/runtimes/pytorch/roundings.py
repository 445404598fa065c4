"""Plain roundings of a reference: what a precision alone does to a model, by nobody's special care."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from circuitcheck.core.census import STATIC
from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.attention_products import Place, hand_on, products_of
from circuitcheck.runtimes.pytorch.default_type import float32_by_default
from circuitcheck.runtimes.pytorch.ports.structure import Structure
from circuitcheck.runtimes.pytorch.quantizers.int8_sim import fake_quantize, simulate_int8
from circuitcheck.runtimes.pytorch.quantizers.rtn import GROUP, linear_weights, quantize_rtn
from circuitcheck.runtimes.pytorch.static_rounding import round_by_range, round_inputs
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

Model = TypeVar("Model", bound=TorchModel)
SEEDS = (0, 1)
"""Of stochastic roundings; rounding to the nearest is one draw of many, too, but has no more than one."""

KEYS, VALUES = 0, 1
"""Numbers of the products that an attention makes with them."""

FLOAT8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Way:
    """One way to round a module in place.

    Attributes:
        precision: whose candidates it stands for.
        name: how it rounds, within that precision.
        apply: to a freshly copied module; one that is calibrated is given token ids, too, `[batch, seq]` each.
        is_calibrated: whether its scales are of the range that was seen on some prompts.
        is_of_weights: whether it gives weights other values and changes nothing else, so that what was proven of the
            reference's code stands for the copy's.
    """

    precision: str
    name: str
    apply: Callable[..., object]
    is_calibrated: bool = False
    is_of_weights: bool = False


@float32_by_default()
def rounded(model: Model, way: Way, ids: Sequence[Tensor] = ()) -> Model:
    """A rounded copy of a model; its own module is left alone.

    Args:
        model: the reference.
        way: how.
        ids: what ways that are calibrated see, `[batch, seq]` each.

    Raises:
        ModelError: it holds nothing that could be rounded this way.
    """
    module = deepcopy(model.module)
    way.apply(module, model.structure, *((ids,) if way.is_calibrated else ()))
    if way.is_of_weights:
        model.proven[module] = model.proven_here
    return replace(model, module=module, precision=way.precision, census=None, notes=())


def _integers(module: nn.Module, structure: Structure, *, bits: int, group: int | None, seed: int | None) -> None:
    # A group of more inputs than a row has is the whole row.
    quantize_rtn(module, structure, bits, group_size=group or 2**31, stochastic_seed=seed)


def _weights(bits: int) -> list[Way]:
    return [
        Way(
            f"{bits}-bit",
            f"weights {'per channel' if group is None else f'in groups of {group}'}, {_manner(seed)}",
            partial(_integers, bits=bits, group=group, seed=seed),
            is_of_weights=True,
        )
        for group in (None, GROUP)
        for seed in (None, *SEEDS)
    ]


def _with_activations(module: nn.Module, structure: Structure, round_input: Callable[[Tensor], Tensor]) -> None:
    """Weights to 8 bits per channel, and what every linear map reads as well."""
    inputs = {id(part.module): part.module for part in linear_weights(module, structure)}
    quantize_rtn(module, structure, 8)
    round_inputs(inputs.values(), round_input)


def _with_cache(module: nn.Module, structure: Structure, ids: Sequence[Tensor]) -> None:
    """Weights to 8 bits per channel, and what a cache holds: keys and values, each head's at each token by itself."""
    attentions = [module.get_submodule(site.attention) for site in structure.layers]
    quantize_rtn(module, structure, 8)
    if set(products_of(module, attentions, ids[0][:1])) != {2}:
        raise ModelError(f"{type(module).__name__}: keys and values that its attention multiplies cannot be told.")
    for attention in attentions:
        hand_on(attention, _cached)


def _cached(place: Place, x: Tensor) -> Tensor:
    """Keys `[..., width, positions]` and values `[..., positions, width]`, rounded; all else as it is."""
    if place == (KEYS, "right"):
        return _per_token(x.transpose(-1, -2)).transpose(-1, -2)
    return _per_token(x) if place == (VALUES, "right") else x


def _per_token(x: Tensor) -> Tensor:
    return fake_quantize(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def _float8(module: nn.Module, structure: Structure, *, per_tensor: bool = False, activations: bool = False) -> None:
    found = list(linear_weights(module, structure))
    if not found:
        raise ModelError(f"{type(module).__name__}: its layers hold no linear map that is known.")
    for part in found:
        weight = part.weight
        weight.data = _to_float8(weight.data, None if per_tensor else (-2 if part.transposed else -1))
    if activations:
        round_inputs({id(part.module): part.module for part in found}.values(), partial(_to_float8, axis=-1))


def _to_float8(x: Tensor, axis: int | None) -> Tensor:
    """To the nearest float of 8 bits, with one scale for each row along an axis, or one for all."""
    largest = x.abs().max() if axis is None else x.abs().amax(axis, keepdim=True)
    scale = torch.where(largest > 0, largest / torch.finfo(FLOAT8).max, 1.0)
    return (x / scale).to(FLOAT8).to(x.dtype) * scale


def _half(module: nn.Module, _: Structure, *, dtype: torch.dtype, seed: int | None) -> None:
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in module.parameters():
            if parameter.dtype == torch.float32:
                parameter.data = stochastic_half(parameter.data, dtype, generator)
    module.to(dtype)


def stochastic_half(x: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Float32 numbers as one of their two neighbours among a shorter type's floats, by chance and unbiased.

    What is subnormal in the shorter type keeps more digits than it has there.
    """
    bits = round(math.log2(torch.finfo(dtype).eps / torch.finfo(x.dtype).eps))
    # A float's bits, read as an integer, count the floats of its sign in order: adding below the last bit that is kept
    # carries into it as often as the number lies beyond.
    added = torch.randint(2**bits, x.shape, generator=generator, dtype=torch.int32).to(x.device)
    kept: Tensor = (x.contiguous().view(torch.int32) + added) & -(2**bits)
    return kept.view(x.dtype)


def _halves(precision: str, dtype: torch.dtype) -> list[Way]:
    return [
        Way(precision, f"everything, {_manner(seed)}", partial(_half, dtype=dtype, seed=seed))
        for seed in (None, *SEEDS)
    ]


def _manner(seed: int | None) -> str:
    return "to nearest" if seed is None else f"stochastic {seed}"


WAYS: tuple[Way, ...] = (
    *_halves("f16", torch.float16),
    *_halves("bf16", torch.bfloat16),
    *_weights(8),
    Way("8-bit", "weights per channel, activations per token", partial(_with_activations, round_input=_per_token)),
    Way("8-bit", "weights per channel, activations per prompt", partial(_with_activations, round_input=fake_quantize)),
    Way("8-bit", "weights per channel, keys and values per token", _with_cache, is_calibrated=True),
    *(
        Way(
            STATIC,
            f"weights per channel, activations per tensor by their range, {what}",
            partial(round_by_range, with_outputs=with_outputs, with_attention=with_attention),
            is_calibrated=True,
        )
        for what, with_outputs, with_attention in (
            ("what maps read", False, False),
            ("what maps read and make", True, False),
            ("what maps and attention's products read and make", True, True),
        )
    ),
    Way("int8-sim", "activations per prompt", simulate_int8),
    Way("float8", "weights per channel", _float8, is_of_weights=True),
    Way("float8", "weights per tensor", partial(_float8, per_tensor=True), is_of_weights=True),
    Way("float8", "weights per channel, activations per token", partial(_float8, activations=True)),
    *_weights(4),
    *_weights(3),
    *_weights(2),
)
"""Every way that is tried. Scales of a group are its largest weight's; none is searched, learned or clipped."""
