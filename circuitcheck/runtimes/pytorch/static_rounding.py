"""Rounding as static quantizers do it: weights to 8 bits, activations to 256 levels of the range that was seen."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.attention_products import Place, hand_on, watched
from circuitcheck.runtimes.pytorch.hooks import post_hook, pre_hook
from circuitcheck.runtimes.pytorch.ports.structure import Structure
from circuitcheck.runtimes.pytorch.quantizers.rtn import linear_weights, quantize_rtn

LEVELS_OF_A_BYTE = 255


def round_by_range(
    module: nn.Module,
    structure: Structure,
    ids: Sequence[Tensor],
    *,
    with_outputs: bool = False,
    with_attention: bool = False,
) -> None:
    """Rounds a module in place: weights to 8 bits per channel, and what every linear map reads.

    Args:
        module: a copy of the reference.
        structure: where its layers are.
        ids: token ids on which ranges are seen, `[batch, seq]` each.
        with_outputs: whether what maps make is rounded as well.
        with_attention: whether both factors and the results of the attention's own products are.

    Raises:
        ModelError: the attention makes no product that can be seen.
    """
    parts = list({id(part.module): part.module for part in linear_weights(module, structure)}.values())
    attentions = [module.get_submodule(site.attention) for site in structure.layers] if with_attention else []
    seen: dict[Hashable, tuple[float, float]] = {}

    def see(place: Hashable, x: Tensor) -> Tensor:
        low, high = seen.get(place, (0.0, 0.0))  # the range holds 0, so that nothing stays nothing
        seen[place] = min(low, x.min().item()), max(high, x.max().item())
        return x

    def watch(place: Hashable, x: Tensor) -> None:
        see(place, x)

    def in_range(place: Hashable, x: Tensor) -> Tensor:
        return _in_range(x, seen[place]) if place in seen else x  # a product that no prompt led to has no range

    with torch.no_grad(), ExitStack() as stack:
        for place, part in enumerate(parts):
            stack.enter_context(pre_hook(part, lambda _, given, at=place: watch((at, "input"), given[0])))
            stack.enter_context(post_hook(part, lambda _, __, made, at=place: watch((at, "output"), made)))
        for place, part in enumerate(attentions):
            stack.enter_context(watched(part, partial(_at, see, place)))
        for batch in ids:
            module(batch)
    quantize_rtn(module, structure, 8)
    if with_attention and not all((place, 0, "made") in seen for place in range(len(attentions))):
        raise ModelError(f"{type(module).__name__}: its attention makes no product that can be rounded.")
    for place, part in enumerate(parts):
        if (place, "input") not in seen:  # a part that was not called reads nothing
            continue
        round_inputs([part], partial(_in_range, bounds=seen[place, "input"]))
        if with_outputs:
            bounds = seen[place, "output"]
            part.register_forward_hook(lambda _, __, made, bounds=bounds: _in_range(made, bounds))
    for place, part in enumerate(attentions):
        hand_on(part, partial(_at, in_range, place))


def round_inputs(modules: Iterable[nn.Module], round_input: Callable[[Tensor], Tensor]) -> None:
    """Rounds what modules read, from now on."""
    for part in modules:
        part.register_forward_pre_hook(lambda _, arguments: (round_input(arguments[0]), *arguments[1:]))


def _at(through: Callable[[Hashable, Tensor], Tensor], attention: int, place: Place, x: Tensor) -> Tensor:
    return through((attention, *place), x)


def _in_range(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """To the nearest of 256 levels between two bounds, of which one is 0."""
    low, high = bounds
    scale = (high - low) / LEVELS_OF_A_BYTE or 1.0
    zero = round(-low / scale)
    return ((x / scale).round() + zero).clamp(0, LEVELS_OF_A_BYTE).sub(zero) * scale
