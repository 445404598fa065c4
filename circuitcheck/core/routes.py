"""Which experts of a mixture tokens are given to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from circuitcheck.core.intervals import Estimate

if TYPE_CHECKING:  # what a report is made of is imported without numpy
    from numpy.typing import NDArray

    from circuitcheck.core.prompts import Prompts


@dataclass(frozen=True)
class Routes:
    """The router's choice in one layer.

    Attributes:
        layer: from 0.
        experts: how many there are.
        chosen: numbers of those that each token was given to, ascending, int32 `[tokens, k]`.
    """

    layer: int
    experts: int
    chosen: NDArray[Any]

    def first(self, tokens: int) -> Self:
        """The same of the first so many tokens."""
        return replace(self, chosen=self.chosen[:tokens])


@runtime_checkable
class RoutesTokens(Protocol):
    """A runtime that shows what its routers choose; others do not."""

    def routes(self, prompts: Prompts) -> tuple[Routes, ...]:
        """The choice of every layer that has a router, at all positions of the clean prompts behind one another."""


@dataclass(frozen=True)
class RoutedLayer:
    """The router's choice in one layer of reference and candidate.

    Attributes:
        layer: from 0.
        reference: share of the tokens that each expert is given.
        candidate: the same of the candidate's.
        changed: share of the tokens for which not all chosen experts are the reference's.
    """

    layer: int
    reference: tuple[float, ...]
    candidate: tuple[float, ...]
    changed: float


@dataclass(frozen=True)
class RoutingMeasure:
    """The router's choice in all layers that have one, on the clean prompts that values of units are kept of.

    Attributes:
        tokens: how many there are.
        changed: share of them for which not all chosen experts are the reference's, mean over layers.
        layers: in order.
    """

    tokens: int
    changed: Estimate
    layers: tuple[RoutedLayer, ...]
