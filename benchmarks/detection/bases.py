"""The same computation in another basis: changes of a model's weights that leave its function as it is.

Tools that quantize do this before they round: AWQ scales channels of values and the projection behind them, SpinQuant
and QuaRot rotate heads (R2) and the whole residual stream (R1, norms folded). Every change is proven when it is made:
the logits are the original's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detection.anatomy import (
    HeadMaps,
    Rows,
    bias_of,
    embeddings,
    head_maps,
    layers_of,
    matrix,
    readers,
    untie,
    writers,
)

TOLERANCE = 1e-4
"""Of the largest logit: float32 rounding of other numbers in another order. Typical are 1e-6."""

SCALES, CONDITION = 2.0, 2.0
"""Largest over smallest factor of channels, and singular value of a general map.

Rounding in a badly conditioned basis does more damage, and a gate that sees it is right: with singular values spread
evenly on a logarithmic scale, (c - 1/c) / (2 ln c) times as much, which is 1.08 at 2 and 2.15 at 10.
"""

WIDE = 10.0
"""The same where nothing is rounded."""

Change = Callable[[nn.Module, torch.Generator], None]


def changed(module: nn.Module, kind: str, seed: int = 0) -> nn.Module:
    """A copy that computes the same in another basis.

    Args:
        module: a float32 model of an architecture in `detection.anatomy`; it is left as it was found.
        kind: a key of `KINDS` or `WIDE_KINDS`.
        seed: of the new basis.

    Raises:
        AssertionError: the copy's logits are not the original's.
    """
    copy = deepcopy(module)
    change_basis(copy, kind, seed)
    return copy


def change_basis(module: nn.Module, kind: str, seed: int = 0) -> None:
    """The same in place.

    Raises:
        AssertionError: the logits are not what they were.
    """
    before = logits_of(module)
    (KINDS | WIDE_KINDS)[kind](module, torch.Generator().manual_seed(seed))
    difference = float((logits_of(module) - before).abs().max() / before.abs().max())
    if not difference <= TOLERANCE:
        raise AssertionError(f"{kind}: logits of {type(module).__name__} differ by {difference:.1e} of the largest.")


@torch.no_grad()
def logits_of(module: Any) -> Tensor:
    """Of random prompts, `[8, 16, vocabulary]`."""
    ids = torch.randint(module.config.vocab_size, (8, 16), generator=torch.Generator().manual_seed(0))
    return module(ids).logits.double()  # type: ignore[no-any-return]


def scale_channels(module: nn.Module, generator: torch.Generator, spread: float = SCALES) -> None:
    """AWQ's: each channel of a head's value is scaled, and the output projection scales it back."""

    def factors(width: int) -> Tensor:
        return torch.diag(spread ** (torch.rand(width, generator=generator, dtype=torch.float64) - 0.5))

    _map_heads(module, factors)


def rotate_heads(module: nn.Module, generator: torch.Generator) -> None:
    """R2 of SpinQuant and QuaRot: each head's values are rotated, and the output projection rotates back."""
    _map_heads(module, partial(rotation, generator=generator))


def map_heads(module: nn.Module, generator: torch.Generator, condition: float = CONDITION) -> None:
    """Any invertible map inside each head; no tool is known to do so, and nothing forbids it."""

    def invertible(width: int) -> Tensor:
        sizes = condition ** torch.linspace(-0.5, 0.5, width, dtype=torch.float64)
        return rotation(width, generator) @ torch.diag(sizes) @ rotation(width, generator)

    _map_heads(module, invertible)


def _map_heads(module: nn.Module, draw: Callable[[int], Tensor]) -> None:
    """One map for each key/value group, because all of a group's heads read the same values."""
    for layer in range(len(layers_of(module))):
        maps = head_maps(module, layer)
        for group, values in enumerate(maps.values):
            forward = draw(len(values.weight))
            map_values(values, forward)
            for head in maps.members(group):
                map_output(maps.outputs[head], forward.inverse())


def map_values(values: Rows, forward: Tensor) -> None:
    """Lets a group's values be `forward` times what they were."""
    for tensor in values.tensors:
        tensor.copy_(forward @ tensor.double())


def map_output(output: Tensor, backward: Tensor) -> None:
    """Lets the output projection read `backward` times a head's z."""
    output.copy_(output.double() @ backward)


def renumber_heads(module: nn.Module, generator: torch.Generator) -> None:
    """Key/value groups of each layer, and the query heads in each of them, get other numbers."""
    for layer in range(len(layers_of(module))):
        maps = head_maps(module, layer)
        groups = _derangement(len(maps.values), generator)
        inside = [torch.randperm(maps.per_group, generator=generator).tolist() for _ in groups]
        heads = [maps.members(group)[place] for group, order in zip(groups, inside, strict=True) for place in order]
        renumber(maps, heads, groups)


def renumber(maps: HeadMaps, heads: Sequence[int], groups: Sequence[int]) -> None:
    """Puts heads and key/value groups of a layer into other places.

    Args:
        maps: the layer's.
        heads: for each place the head that comes there; heads of a group stay together.
        groups: for each place the key/value group that comes there.
    """
    for parts, order in ((maps.queries, heads), (maps.keys, groups), (maps.values, groups)):
        for tensors in zip(*(rows.tensors for rows in parts), strict=True):
            reorder(tensors, order)
    reorder(maps.outputs, heads)


def reorder(places: Sequence[Tensor], order: Sequence[int]) -> None:
    """Puts tensors, such as views of a weight, into other places: each place gets the one that its order names."""
    kept = [places[number].clone() for number in order]
    for place, tensor in zip(places, kept, strict=True):
        place.copy_(tensor)


def _derangement(count: int, generator: torch.Generator) -> list[int]:
    """A random order in which nothing stays in its place."""
    circle = torch.randperm(count, generator=generator).tolist()
    following = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return [following[number] for number in range(count)]


def rotate_stream(module: nn.Module, generator: torch.Generator) -> None:
    """R1 of SpinQuant and QuaRot: the residual stream is rotated, the gains and biases of its norms folded.

    A LayerNorm stays one, so the rotation Q keeps the direction of all ones: LayerNorm subtracts what lies along it,
    and LayerNorm(Q x) = Q LayerNorm(x) for every x only where Q maps the vectors of mean 0 onto themselves. Whatever
    writes into the stream is centred, as those tools do, which changes nothing: each LayerNorm subtracts the mean
    anyway.
    """
    untie(module)
    norms = list(readers(module))
    centred = isinstance(norms[0][0], nn.LayerNorm)
    width = norms[0][0].get_parameter("weight").numel()
    turn = keeping_ones(width, generator) if centred else rotation(width, generator)
    for norm, linears in norms:
        _fold(norm, linears, turn)
    centre = torch.eye(width, dtype=torch.float64) - (1 / width if centred else 0)
    for linear in writers(module):
        for tensor in (matrix(linear), bias_of(linear)):
            if tensor is not None:
                tensor.copy_(turn @ centre @ tensor.double())
    for table in embeddings(module):
        table.copy_(table.double() @ centre @ turn.T)


def _fold(norm: nn.Module, linears: Sequence[nn.Module], turn: Tensor) -> None:
    """Moves a norm's gain, and its bias if they have one, into the maps behind it, which then read a turned stream."""
    gain, shift = norm.get_parameter("weight").detach(), bias_of(norm)
    scales = gain.double()
    offset = torch.zeros_like(scales) if shift is None else shift.double()
    gain.fill_(1)
    biases = [bias_of(linear) for linear in linears]
    if shift is not None:
        # An unembedding has no bias: its norm keeps one, before the gain and turned.
        shift.copy_(turn @ (offset / scales) if None in biases else torch.zeros_like(offset))
    for linear, bias in zip(linears, biases, strict=True):
        weight = matrix(linear)
        if bias is not None:
            bias.copy_(bias.double() + weight.double() @ offset)
        weight.copy_(weight.double() * scales @ turn.T)


def rotation(width: int, generator: torch.Generator) -> Tensor:
    """A random rotation, uniformly distributed, `[width, width]` in float64."""
    square = torch.randn(width, width, generator=generator, dtype=torch.float64)
    basis, upper = torch.linalg.qr(square)
    basis = basis * upper.diagonal().sign()
    basis[:, 0] *= torch.linalg.det(basis).sign()
    return basis


def keeping_ones(width: int, generator: torch.Generator) -> Tensor:
    """A random rotation that leaves the vector of ones as it is, `[width, width]` in float64."""
    first = torch.eye(width, dtype=torch.float64)
    first[:, 0] = 1
    basis = torch.linalg.qr(first).Q
    inner = torch.eye(width, dtype=torch.float64)
    inner[1:, 1:] = rotation(width - 1, generator)
    return basis @ inner @ basis.T


def change_everything(module: nn.Module, generator: torch.Generator) -> None:
    """All of them, one after the other."""
    for change in (rotate_stream, scale_channels, rotate_heads, renumber_heads):
        change(module, generator)


KINDS: dict[str, Change] = {
    "channels scaled": scale_channels,
    "heads rotated": rotate_heads,
    "heads mapped": map_heads,
    "heads renumbered": renumber_heads,
    "stream rotated": rotate_stream,
    "all together": change_everything,
}

WIDE_KINDS: dict[str, Change] = {
    "channels scaled widely": partial(scale_channels, spread=WIDE**2),
    "heads mapped widely": partial(map_heads, condition=WIDE),
}
"""For float32 alone."""
