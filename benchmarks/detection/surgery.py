"""Planted faults: edits of a GPT-NeoX in memory, such as the embedded model is. Each changes the module it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.core.units import Unit
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.ports import reading
from circuitcheck.runtimes.pytorch.quantizers.rtn import dequantize, round_weight

ATTENTION_PROJECTIONS = ("attention.query_key_value", "attention.dense")
MLP_PROJECTIONS = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


def layer_of(module: nn.Module, layer: int) -> Any:
    """A layer of a GPT-NeoX."""
    return module.get_submodule(f"gpt_neox.layers.{layer}")


def output_columns(module: nn.Module, head: Unit) -> Tensor:
    """Columns of the output projection that read this head's z, `[d_model, d_head]`; a view."""
    attention = layer_of(module, head[0]).attention
    width = attention.head_size
    return attention.dense.weight[:, head[1] * width : (head[1] + 1) * width]  # type: ignore[no-any-return]


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
    here, there = output_columns(module, one), output_columns(module, other)
    kept = here.clone()
    here.copy_(there)
    there.copy_(kept)


@torch.no_grad()
def round_projection(module: nn.Module, layer: int, projection: str, bits: int) -> None:
    """Rounds one weight, a scale for each output channel, to the nearest."""
    weight = layer_of(module, layer).get_submodule(projection).weight
    weight.copy_(dequantize(*round_weight(weight, bits)))


@torch.no_grad()
def rounding_error(module: nn.Module, layer: int, projection: str, bits: int) -> float:
    """Relative error, norm(W - rounded W) / norm(W), that `round_projection` would leave."""
    weight = layer_of(module, layer).get_submodule(projection).weight
    rounded = dequantize(*round_weight(weight, bits))
    return float((weight - rounded).norm() / weight.norm())


@torch.no_grad()
def set_rotary_base(module: nn.Module, base: float) -> None:
    """Turns queries and keys by another rotary base, as a wrong config does."""
    rotary: Any = module.get_submodule("gpt_neox.rotary_emb")
    dimensions = 2 * len(rotary.inv_freq)
    rotary.inv_freq.copy_(base ** -(torch.arange(0, dimensions, 2, dtype=torch.float32) / dimensions))


@torch.no_grad()
def replace_by_mean(model: HookedModel, layer: int, share: float, ids: Tensor) -> None:
    """Replaces a share of what a layer's attention writes by its mean over a text.

    Args:
        model: the model that is changed.
        layer: whose attention.
        share: 1 replaces all of it, 0 nothing.
        ids: token ids of the text, `[rows, seq]`.
    """
    with reading(model.module, model.ports("head")) as z:
        model.module(ids)
    mean = z[layer].float().mean(dim=(0, 1)).flatten()
    dense = layer_of(model.module, layer).attention.dense
    dense.bias += share * (dense.weight @ mean)
    dense.weight *= 1 - share
