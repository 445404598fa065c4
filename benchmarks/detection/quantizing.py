"""Ways in which people make a model smaller, each small and in place. What they leave is float weights on a grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.runtimes.pytorch.ports.structure import resolve
from circuitcheck.runtimes.pytorch.quantizers.int8_sim import simulate_int8
from circuitcheck.runtimes.pytorch.quantizers.rtn import dequantize, round_weight
from detection.anatomy import (
    embeddings,
    head_channels,
    head_maps,
    layers_of,
    linear_maps,
    matrix,
    names_of,
    readers,
    untie,
)

GROUP = 32
DAMPING = 0.01
"""Of GPTQ: added to the Hessian's diagonal, relative to its mean."""

FLOAT8 = torch.float8_e4m3fn
NORMAL_FLOAT = torch.distributions.Normal(0.0, 1.0)


def group_for(weight: Tensor, wanted: int | None) -> int | None:
    """The group size where it divides the inputs of a weight `[out, in]`; else one scale for each output."""
    return wanted if wanted and weight.shape[1] % wanted == 0 else None


@torch.no_grad()
def round_plainly(module: nn.Module, bits: int, group: int | None = None, seed: int | None = None) -> None:
    """To the nearest, or stochastically where there is a seed."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for _, linear in linear_maps(module):
        weight = matrix(linear)
        weight.copy_(dequantize(*round_weight(weight, bits, group_for(weight, group), generator)))


@torch.no_grad()
def round_asymmetrically(module: nn.Module, bits: int, group: int | None = GROUP) -> None:
    """Scale and zero point of each group from its smallest and largest weight."""
    for _, linear in linear_maps(module):
        weight = matrix(linear)
        parts = weight.reshape(len(weight), -1, group_for(weight, group) or weight.shape[1])
        low, high = parts.amin(-1, keepdim=True).clamp(max=0), parts.amax(-1, keepdim=True).clamp(min=0)
        step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
        zero = (-low / step).round()
        codes = ((parts / step).round() + zero).clamp(0, 2**bits - 1)
        weight.copy_(((codes - zero) * step).flatten(1))


@torch.no_grad()
def round_to_normal_float(module: nn.Module, group: int = 64) -> None:
    """Sixteen levels at quantiles of a normal distribution, scaled to each group's largest weight, as in NF4."""
    places = torch.cat([torch.linspace(0.03, 0.5, 8), torch.linspace(0.5, 0.97, 9)[1:]])
    levels = NORMAL_FLOAT.icdf(places)
    levels = levels / levels.abs().max()
    for _, linear in linear_maps(module):
        weight = matrix(linear)
        parts = weight.reshape(len(weight), -1, group_for(weight, group) or weight.shape[1])
        scale = parts.abs().amax(-1, keepdim=True).clamp(min=1e-12)
        nearest = ((parts / scale)[..., None] - levels).abs().argmin(-1)
        weight.copy_((levels[nearest] * scale).flatten(1))


@torch.no_grad()
def round_clipped(module: nn.Module, bits: int, group: int | None = GROUP) -> None:
    """Each group's range is shrunk as far as makes its squared error least."""
    for _, linear in linear_maps(module):
        weight = matrix(linear)
        width = group_for(weight, group) or weight.shape[1]
        parts = weight.reshape(-1, width)
        tried = []
        for share in torch.linspace(0.6, 1.0, 9):
            bound = share * parts.abs().amax(-1, keepdim=True)
            tried.append(dequantize(*round_weight(parts.clamp(-bound, bound), bits)))
        errors = torch.stack([(one - parts).square().sum(-1) for one in tried])
        best = torch.stack(tried)[errors.argmin(0), torch.arange(len(parts))]
        weight.copy_(best.reshape(weight.shape))


@torch.no_grad()
def round_to_float8(module: nn.Module) -> None:
    """Weights to e4m3, one scale for each output."""
    for _, linear in linear_maps(module):
        weight = matrix(linear)
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / torch.finfo(FLOAT8).max
        weight.copy_((weight / scale).to(FLOAT8).float() * scale)


@contextmanager
def inputs_of(linears: list[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """What linear maps read while the block runs, `[tokens, in]` each."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(linear: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen[linear] = arguments[0].flatten(0, -2)

    handles = [linear.register_forward_pre_hook(keep) for linear in linears]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def round_by_gptq(module: Any, bits: int, ids: Tensor, group: int | None = GROUP) -> None:
    """GPTQ (Frantar et al. 2022, arXiv:2210.17323): what rounding one input changes, the inputs after it make good.

    Layer by layer, so that each one's inputs are those behind the layers that are rounded already.

    Args:
        module: the model.
        bits: of a code.
        ids: calibration text, token ids `[rows, seq]`.
        group: inputs that share a scale.
    """
    names = names_of(module)
    for number in range(len(layers_of(module))):
        prefix = f"{names.layers}.{number}."
        linears = [linear for path, linear in linear_maps(module) if path.startswith(prefix)]
        with inputs_of(linears) as seen:
            module(ids)
        for linear in linears:
            weight = matrix(linear)
            weight.copy_(_gptq(weight.double().clone(), seen[linear].double(), bits, group_for(weight, group)))


def _gptq(weight: Tensor, inputs: Tensor, bits: int, group: int | None) -> Tensor:
    hessian = inputs.T @ inputs
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    levels, scale = 2 ** (bits - 1) - 1, torch.ones(len(weight), dtype=weight.dtype)
    rounded, width = torch.zeros_like(weight), group or weight.shape[1]
    for place in range(weight.shape[1]):
        if place % width == 0:
            scale = (weight[:, place : place + width].abs().amax(1) / levels).clamp(min=1e-12)
        column = weight[:, place]
        rounded[:, place] = (column / scale).round().clamp(-levels, levels) * scale
        error = (column - rounded[:, place]) / upper[place, place]
        weight[:, place + 1 :] -= error[:, None] * upper[place, place + 1 :]
    return rounded


@torch.no_grad()
def fold_scales(module: Any, ids: Tensor, *, strength: float, by_weight: bool) -> None:
    """Moves scale from activations into the weights that read them: into norms, and from values to the output.

    AWQ's (Lin et al. 2023, arXiv:2306.00978) follows the mean size of a channel; SmoothQuant's (Xiao et al. 2022,
    arXiv:2211.10438) its largest, over the largest weight that reads it. The function stays as it was.

    Args:
        module: the model.
        ids: calibration text, token ids `[rows, seq]`.
        strength: exponent, 0 changes nothing.
        by_weight: SmoothQuant's way.
    """
    untie(module)
    linears = [linear for _, linear in linear_maps(module)]
    with inputs_of(linears) as seen:
        module(ids)

    def factors(some: list[nn.Module]) -> Tensor:
        read = seen[some[0]].abs()
        size = read.amax(0) if by_weight else read.mean(0)
        size = size.clamp(min=1e-5) ** strength
        if by_weight:
            size = size / torch.stack([matrix(one).abs().amax(0) for one in some]).amax(0).clamp(min=1e-5) ** (
                1 - strength
            )
        return size / (size.max() * size.min()).sqrt()

    for norm, some in list(readers(module))[:-1]:
        scale = factors(some)
        for parameter in norm.parameters():
            parameter.div_(scale)
        for linear in some:
            matrix(linear).mul_(scale)
    for layer, part in enumerate(layers_of(module)):
        maps, output = head_maps(module, layer), part.get_submodule(names_of(module).output)
        if maps.per_group == 1:
            for rows, columns, scale in zip(
                maps.values, maps.outputs, factors([output]).split(len(maps.values[0].weight)), strict=True
            ):
                for tensor in rows.tensors:
                    tensor.div_(scale if tensor.dim() == 1 else scale[:, None])
                columns.mul_(scale)


def round_activations(module: nn.Module, bits: int | None = 8) -> None:
    """Every linear map inside the layers rounds what it reads, each token by its largest number; None: to float8.

    By a forward of its own, as compressed-tensors does.
    """
    for _, linear in linear_maps(module):
        linear.forward = partial(_forward_rounded, linear, bits)


def _forward_rounded(linear: nn.Module, bits: int | None, read: Tensor) -> Tensor:
    return type(linear).forward(linear, fake_rounded(read, bits))  # type: ignore[no-any-return]


def fake_rounded(values: Tensor, bits: int | None) -> Tensor:
    """Values `[..., numbers]`, rounded to integers of the largest of each last row; None: to float8."""
    largest = values.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    if bits is None:
        scale = largest / torch.finfo(FLOAT8).max
        return (values / scale).to(FLOAT8).to(values.dtype) * scale
    scale = largest / (2 ** (bits - 1) - 1)
    return (values / scale).round() * scale


def round_cache(module: nn.Module, bits: int) -> None:
    """Rounds keys, before they are turned to their place, and values, each head and token by its largest number."""
    for layer in range(len(layers_of(module))):
        _, keys, values = head_channels(module, layer)
        for linear in {id(one.linear): one.linear for one in (*keys, *values)}.values():
            rows = [one.rows for one in (*keys, *values) if one.linear is linear]
            linear.register_forward_hook(partial(_round_rows, rows, bits))


def _round_rows(rows: list[slice], bits: int, _: nn.Module, __: Any, output: Tensor) -> Tensor:
    rounded = output.clone()
    for some in rows:
        rounded[..., some] = fake_rounded(output[..., some], bits)
    return rounded


@torch.no_grad()
def round_embeddings(module: Any, bits: int) -> None:
    """Embeddings and unembedding, each row by itself."""
    untie(module)
    for table in (*embeddings(module), module.get_output_embeddings().weight):
        table.copy_(dequantize(*round_weight(table, bits)))


def quantize(module: Any, precision: str) -> None:
    """Plainly to what a candidate claims, in place; `f32` changes nothing."""
    if precision in ("f16", "bf16"):
        module.to({"f16": torch.float16, "bf16": torch.bfloat16}[precision])
    elif precision == "float8":
        round_to_float8(module)
    elif precision == "int8-sim":
        simulate_int8(module, resolve(module))
    elif precision != "f32":
        bits = int(precision.removesuffix("-bit"))
        round_plainly(module, bits, None if bits == 8 else GROUP)
