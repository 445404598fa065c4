"""In which order, and how many at a time, heads are repaired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.runtimes.pytorch.ports.structure import Head

RANDOM_ORDERS = 20
"""Random orders that the informed ones are compared with."""


@dataclass(frozen=True)
class RepairPlan:
    """Which sets of heads to repair.

    Attributes:
        grid: how many heads at a time, up to all of them.
        orders: name to places of heads, first repaired first.
        random: random orders, as places of heads.
        head_sets: the different sets, as places of heads in ascending order: first every head alone, then all others.
    """

    grid: tuple[int, ...]
    orders: dict[str, tuple[int, ...]]
    random: tuple[tuple[int, ...], ...]
    head_sets: tuple[tuple[int, ...], ...]

    def heads(self, heads: list[Head]) -> list[list[Head]]:
        """The sets as (layer, head)."""
        return [[heads[place] for place in places] for places in self.head_sets]

    def curve(self, order: tuple[int, ...]) -> list[int]:
        """For each k of the grid, the place in `head_sets` of the order's first k heads."""
        number = {places: place for place, places in enumerate(self.head_sets)}
        return [number[tuple(sorted(order[:k]))] for k in self.grid]

    @property
    def everything(self) -> int:
        """The place of the set of all heads in `head_sets`."""
        return self.head_sets.index(tuple(range(self.grid[-1])))


def plan_repair(
    importance: NDArray[Any], drift: NDArray[Any], fragility: NDArray[Any], seed: int, *, with_orders: bool = True
) -> RepairPlan:
    """Cumulative sets by |importance|, drift, their product, fragility, |importance| reversed, and at random.

    Args:
        importance: the reference's, `[heads]`.
        drift: the candidate's, `[heads]`.
        fragility: mean |g . d|, `[heads]`.
        seed: of the random orders.
        with_orders: False leaves only every head alone and all of them, for there is nothing to give back, or nobody
            asks where it is.
    """
    size = np.abs(importance)
    orders = {
        "importance": _descending(size),
        "drift": _descending(drift),
        "importance x drift": _descending(size * drift),
        "fragility": _descending(fragility),
        "reversed": _descending(size)[::-1],
    }
    rng = np.random.default_rng(seed)
    random = tuple(tuple(int(place) for place in rng.permutation(len(size))) for _ in range(RANDOM_ORDERS))
    if not with_orders:
        orders, random = {}, ()
    grid = repair_grid(len(size))
    singles = [(place,) for place in range(len(size))]
    cumulative = [tuple(sorted(order[:k])) for order in (*orders.values(), *random) for k in grid]
    everything = tuple(range(len(size)))
    return RepairPlan(grid, orders, random, tuple(dict.fromkeys([*singles, everything, *cumulative])))


def repair_grid(n_heads: int) -> tuple[int, ...]:
    """1, 2, 3, 5, 8, ... (each about 1.6 times the last), and all heads."""
    grid, step = [1, 2], 3
    while step < n_heads:
        grid.append(step)
        step = grid[-1] + grid[-2]
    return (*(k for k in grid if k < n_heads), n_heads)


def _descending(values: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(place) for place in np.argsort(-values, kind="stable"))
