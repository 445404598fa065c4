"""What an attention multiplies by itself: queries by keys, and the weights that follow from them by values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Place = tuple[int, Literal["left", "right", "made"]]
"""Number of a product in one call of an attention, and which of its factors, or its result."""

Through = Callable[[Place, Tensor], Tensor]
"""What goes on in the place of a value."""

TWO_FACTORS = frozenset(
    getattr(holder, name)
    for holder in (torch, Tensor)
    for name in ("matmul", "bmm", "__matmul__")
    if hasattr(holder, name)
)


def hand_on(attention: nn.Module, through: Through) -> None:
    """Lets an attention hand on what its products read and make, from now on; fused ones have none that are seen."""
    forward = attention.forward

    def forward_through(_: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        with _Products(through):
            return forward(*arguments, **keywords)

    attention.forward = MethodType(forward_through, attention)


@contextmanager
def watched(attention: nn.Module, through: Through) -> Iterator[None]:
    """The same, for as long as the block runs."""
    hand_on(attention, through)
    try:
        yield
    finally:
        del attention.forward


def products_of(module: nn.Module, attentions: Sequence[nn.Module], ids: Tensor) -> list[int]:
    """How many products each attention makes in a pass over token ids, `[batch, seq]`."""
    counts = [0] * len(attentions)

    def count(attention: int, place: Place, x: Tensor) -> Tensor:
        counts[attention] = max(counts[attention], place[0] + 1)
        return x

    with torch.no_grad(), ExitStack() as stack:
        for number, attention in enumerate(attentions):
            stack.enter_context(watched(attention, partial(count, number)))
        module(ids)
    return counts


class _Products(TorchFunctionMode):
    """Hands the factors and the result of each product of two values through a function; a weight is no value."""

    def __init__(self, through: Through) -> None:
        super().__init__()
        self._through, self._number = through, 0

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        is_plain = function in TWO_FACTORS and len(arguments) == 2 and not keywords
        if not is_plain or any(isinstance(factor, nn.Parameter) for factor in arguments):
            return function(*arguments, **(keywords or {}))
        number, through = self._number, self._through
        self._number += 1
        left, right = arguments
        return through((number, "made"), function(through((number, "left"), left), through((number, "right"), right)))
