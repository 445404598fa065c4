"""In which order, and how many at a time, units are repaired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.units import Unit

RANDOM_ORDERS = 20
"""Random orders that the informed ones are compared with."""

Order = tuple[Unit, ...]
"""Units, first repaired first."""


@dataclass(frozen=True)
class RepairPlan:
    """Which sets of units to repair.

    Attributes:
        grid: how many units at a time, up to all of them.
        orders: name to order; none where there is nothing to give back, or nobody asks where it is.
        random: random orders; likewise.
        sets: the different sets, units in ascending order, all of them among them.
    """

    grid: tuple[int, ...]
    orders: dict[str, Order]
    random: tuple[Order, ...]
    sets: tuple[Order, ...]

    def curve(self, order: Order) -> list[int]:
        """For each k of the grid, the place in `sets` of the order's first k units."""
        number = {units: place for place, units in enumerate(self.sets)}
        return [number[tuple(sorted(order[:k]))] for k in self.grid]

    @property
    def everything(self) -> int:
        """The place of the set of all units in `sets`."""
        return max(range(len(self.sets)), key=lambda place: len(self.sets[place]))


def plan_repair(
    baseline: Recording, drift: NDArray[Any], fragility: NDArray[Any], *, with_orders: bool = True
) -> RepairPlan:
    """Cumulative sets by |importance|, drift, their product, fragility, |importance| reversed, and at random.

    Args:
        baseline: the reference's side; units that a screened sweep left out are repaired last by importance, and alone
            only where an order begins with one.
        drift: the candidate's, `[units]`.
        fragility: mean |g . d|, `[units]`.
        with_orders: False leaves only the set of all units.
    """
    units, everything = baseline.layout.units, tuple(sorted(baseline.layout.units))
    grid = repair_grid(len(units))
    if not with_orders:
        return RepairPlan(grid, {}, (), (everything,))
    known = dict(zip(baseline.measured, np.abs(baseline.importance(baseline.spec.ablation)), strict=True))
    size = np.array([known.get(unit, 0.0) for unit in units])

    def descending(values: NDArray[Any]) -> Order:
        return tuple(units[place] for place in np.argsort(-values, kind="stable"))

    orders = {
        "importance": descending(size),
        "drift": descending(drift),
        "importance x drift": descending(size * drift),
        "fragility": descending(fragility),
        "reversed": descending(size)[::-1],
    }
    rng = np.random.default_rng(baseline.spec.seed)
    random = tuple(tuple(units[place] for place in rng.permutation(len(units))) for _ in range(RANDOM_ORDERS))
    singles = [(unit,) for unit in baseline.measured]
    cumulative = [tuple(sorted(order[:k])) for order in (*orders.values(), *random) for k in grid]
    return RepairPlan(grid, orders, random, tuple(dict.fromkeys([*singles, everything, *cumulative])))


def repair_grid(units: int) -> tuple[int, ...]:
    """1, 2, 3, 5, 8, ... (each about 1.6 times the last), and all units."""
    grid, step = [1, 2], 3
    while step < units:
        grid.append(step)
        step = grid[-1] + grid[-2]
    return (*(k for k in grid if k < units), units)
