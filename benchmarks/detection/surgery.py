"""Planted faults: edits of a decoder in memory. Each changes the module it is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.core.units import Unit
from circuitcheck.runtimes.pytorch.quantizers.rtn import dequantize, round_weight
from detection.anatomy import (
    bias_of,
    embeddings,
    head_counts,
    head_maps,
    layers_of,
    linear_maps,
    matrix,
    names_of,
    readers,
    untie,
)
from detection.bases import reorder
from detection.quantizing import inputs_of


def output_columns(module: nn.Module, head: Unit) -> Tensor:
    """Columns of the output projection that read this head's z, `[d_model, d_head]`; a view."""
    return head_maps(module, head[0]).outputs[head[1]]


@torch.no_grad()
def scale_head(module: nn.Module, head: Unit, factor: float) -> None:
    """Multiplies what a head writes; 0 prunes it."""
    output_columns(module, head).mul_(factor)


def prune_heads(module: nn.Module, heads: Iterable[Unit]) -> None:
    """Silences heads: what they write becomes zero."""
    for head in heads:
        scale_head(module, head, 0.0)


@torch.no_grad()
def miswire_heads(module: nn.Module, one: Unit, other: Unit) -> None:
    """Lets the output projection read each of two heads of a layer in the other's place, as after a wrong reshape.

    Raises:
        ValueError: the heads are of different layers.
    """
    if one[0] != other[0]:
        raise ValueError(f"heads {one} and {other} are of different layers and cannot be swapped.")
    reorder([output_columns(module, head) for head in (one, other)], (1, 0))


@torch.no_grad()
def round_projection(module: nn.Module, path: str, bits: int) -> None:
    """Rounds one weight, a scale for each output channel, to the nearest."""
    weight = matrix(module.get_submodule(path))
    weight.copy_(dequantize(*round_weight(weight, bits)))


@torch.no_grad()
def set_rotary_base(module: nn.Module, base: float) -> None:
    """Turns queries and keys by another rotary base, as a wrong config does.

    Raises:
        LookupError: the model has no rotary positions.
    """
    rotary: Any = next((part for part in module.modules() if hasattr(part, "inv_freq")), None)
    if rotary is None:
        raise LookupError("positions are not rotary")
    dimensions = 2 * len(rotary.inv_freq)
    rotary.inv_freq.copy_(base ** -(torch.arange(0, dimensions, 2, dtype=torch.float32) / dimensions))


@torch.no_grad()
def shift_positions(module: nn.Module, by: int) -> None:
    """Each place gets the embedding of another, as after an offset of the cache.

    Raises:
        LookupError: positions are not embedded.
    """
    tables = embeddings(module)
    if len(tables) < 2:
        raise LookupError("positions are not embedded")
    tables[1].copy_(tables[1].roll(by, 0))


@torch.no_grad()
def replace_by_mean(module: nn.Module, layer: int, share: float, ids: Tensor) -> None:
    """Replaces a share of what a layer's attention writes by its mean over a text.

    Args:
        module: the model that is changed.
        layer: whose attention.
        share: 1 replaces all of it, 0 nothing.
        ids: token ids of the text, `[rows, seq]`.
    """
    output: Any = layers_of(module)[layer].get_submodule(names_of(module).output)
    with inputs_of([output]) as seen:
        module(ids)
    mean = matrix(output) @ seen[output].mean(0)
    if output.bias is None:
        output.bias = nn.Parameter(torch.zeros_like(mean), requires_grad=False)
    output.bias += share * mean
    matrix(output).mul_(1 - share)


@torch.no_grad()
def merge_adapter(weight: Tensor, rank: int, size: float, generator: torch.Generator) -> None:
    """Adds a random product of two thin matrices to a weight `[out, in]`, of a norm relative to the weight's."""
    left = torch.randn(len(weight), rank, generator=generator)
    right = torch.randn(rank, weight.shape[1], generator=generator)
    product = left @ right
    weight.add_(size * weight.norm() / product.norm() * product)


@torch.no_grad()
def clip_outliers(module: nn.Module, deviations: float, paths: Sequence[str]) -> None:
    """Cuts the weights of some linear maps off at so many standard deviations of each output channel."""
    for path in paths:
        weight = matrix(module.get_submodule(path))
        bound = deviations * weight.std(1, keepdim=True)
        weight.copy_(weight.clamp(-bound, bound))


@torch.no_grad()
def scale_block(module: nn.Module, path: str, rows: slice, columns: slice, factor: float) -> None:
    """Multiplies a block of a weight, as a wrong scale of it does."""
    matrix(module.get_submodule(path))[rows, columns].mul_(factor)


@torch.no_grad()
def shift_scales(module: nn.Module, path: str, group: int) -> None:
    """Each group of inputs gets the scale of the group before it, as where they are read in another order."""
    weight = matrix(module.get_submodule(path))
    parts = weight.reshape(len(weight), -1, group)
    scales = parts.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    weight.copy_((parts / scales * scales.roll(1, 1)).flatten(1))


@torch.no_grad()
def drop_biases(module: nn.Module, paths: Sequence[str]) -> None:
    """Sets biases of linear maps to zero, as a loader that does not know them.

    Raises:
        LookupError: none of them has one.
    """
    biases = [bias for path in paths if (bias := bias_of(module.get_submodule(path))) is not None and bias.any()]
    if not biases:
        raise LookupError("there are no biases")
    for bias in biases:
        bias.zero_()


@torch.no_grad()
def drop_gains(module: nn.Module, places: Sequence[int]) -> None:
    """Norms, counted from the first, lose their gain and bias.

    Raises:
        LookupError: they have none to lose.
    """
    norms = [norm for norm, _ in readers(module)]
    before = [parameter.clone() for place in places for parameter in norms[place].parameters()]
    for place in places:
        norms[place].get_parameter("weight").fill_(1)
        if bias_of(norms[place]) is not None:
            norms[place].get_parameter("bias").zero_()
    after = [parameter for place in places for parameter in norms[place].parameters()]
    if all(torch.equal(one, other) for one, other in zip(before, after, strict=True)):
        raise LookupError("norms have gains of one")


MASKS = {
    "sees one ahead": lambda mask: torch.cat([mask[..., 1:, :], mask[..., -1:, :]], dim=-2),
    "does not see the first": lambda mask: _hidden(mask, lambda query, key: (key == 0) & (query > 0)),
    "does not see the one before": lambda mask: _hidden(mask, lambda query, key: key == query - 1),
    "does not see itself": lambda mask: _hidden(mask, lambda query, key: (key == query) & (query > 0)),
}
"""Causal masks that are off by one, made of a right one `[batch, 1, queries, keys]` of zeros and very low numbers."""


def _hidden(mask: Tensor, where: Any) -> Tensor:
    places = torch.arange(mask.shape[-1])
    return mask.masked_fill(where(places[:, None], places[None]), torch.finfo(mask.dtype).min)


def mask_wrongly(module: nn.Module, name: str, layers: Iterable[int]) -> None:
    """Attention of some layers gets another mask, of `MASKS`."""
    path = names_of(module).output.rpartition(".")[0]
    for layer in layers:
        attention = layers_of(module)[layer].get_submodule(path)
        attention.register_forward_pre_hook(partial(_masked, name), with_kwargs=True)


def _masked(name: str, _: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    mask = options.get("attention_mask")
    if mask is None:
        read = options.get("hidden_states", arguments[0] if arguments else None)
        count = read.shape[1]
        mask = torch.full((count, count), torch.finfo(read.dtype).min).triu(1)[None, None]
    return arguments, {**options, "attention_mask": MASKS[name](mask)}


@torch.no_grad()
def regroup_queries(module: nn.Module, layer: int, what: str) -> None:
    """Query heads read the keys, the values or both of the next group, as where groups are counted in another order."""
    maps = head_maps(module, layer)
    order = [*range(1, len(maps.values)), 0]
    for parts in {"keys": (maps.keys,), "values": (maps.values,), "both": (maps.keys, maps.values)}[what]:
        for tensors in zip(*(rows.tensors for rows in parts), strict=True):
            reorder(tensors, order)


@torch.no_grad()
def interleave_queries(module: nn.Module, layer: int) -> None:
    """Query head h reads group h modulo their number instead of its own.

    Raises:
        LookupError: every head has a group of its own.
    """
    heads, groups = head_counts(module)
    if heads == groups:
        raise LookupError("heads do not share keys and values")
    # The head that is to read group g stands among those of that group: place p gets head order[p].
    order = [head for group in range(groups) for head in range(heads) if head % groups == group]
    maps = head_maps(module, layer)
    for tensors in zip(*(rows.tensors for rows in maps.queries), strict=True):
        reorder(tensors, order)
    reorder(maps.outputs, order)


@torch.no_grad()
def take_layer(module: nn.Module, other: nn.Module, layer: int) -> None:
    """One layer of another checkpoint."""
    layers_of(module)[layer].load_state_dict(layers_of(other)[layer].state_dict())


@torch.no_grad()
def prune_weights(module: nn.Module, share: float | None, paths: Sequence[str]) -> None:
    """The smallest weights become zero: a share of each linear map, or None for 2 of every 4 inputs."""
    for path in paths:
        weight = matrix(module.get_submodule(path))
        if share is None:
            parts = weight.reshape(len(weight), -1, 4)
            kept = torch.zeros_like(parts).scatter(-1, parts.abs().topk(2, -1).indices, 1.0)
            weight.mul_(kept.flatten(1))
        else:
            weight[weight.abs() < weight.abs().flatten().quantile(share)] = 0


@torch.no_grad()
def truncate_vocabulary(module: Any, kept: int) -> None:
    """Tokens from some number on are unknown: nothing is embedded of them, and they are not said."""
    untie(module)
    embeddings(module)[0][kept:] = 0
    module.get_output_embeddings().weight[kept:] = 0


def paths_of(module: nn.Module, layer: int | None = None) -> list[str]:
    """Linear maps of a layer, or of all."""
    prefix = names_of(module).layers + ("." if layer is None else f".{layer}.")
    return [path for path, _ in linear_maps(module) if path.startswith(prefix)]
