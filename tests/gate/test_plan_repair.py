"""Which heads are repaired together, and in which order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.repair_plan import RANDOM_ORDERS, RepairPlan, plan_repair, repair_grid

IMPORTANCE = np.array([1.0, -3.0, 0.5, 2.0])
DRIFT = np.array([0.1, 0.1, 0.9, 0.4])
FRAGILITY = np.array([0.2, 0.5, 0.1, 0.3])


UNITS = ((0, 0), (0, 1), (1, 0), (1, 1))


def planned(importance, drift, fragility, seed: int = 0, layers: int = 2, **options) -> RepairPlan:
    """The plan for a baseline whose units, as many in every layer, have exactly these importances."""
    layout = synthetic.head_layout(layers, len(importance) // layers, 1)
    known = synthetic.make_baseline(
        spec=MeasurementSpec(seed=seed),
        task=synthetic.make_task(1),
        metric=np.zeros(1, np.float32),
        layout=layout,
        measured=layout.units,
    )
    return plan_repair(synthetic.with_importance(known, list(importance)), drift, fragility, **options)


def test_orders_by_hand():
    orders = planned(IMPORTANCE, DRIFT, FRAGILITY).orders
    first, second, third, fourth = UNITS
    assert orders["importance"] == (second, fourth, first, third)
    assert orders["drift"] == (third, fourth, first, second)  # of the two equals the first goes first
    assert orders["importance x drift"] == (fourth, third, second, first)  # 0.8, 0.45, 0.3, 0.1
    assert orders["reversed"] == (third, first, fourth, second)
    assert orders["fragility"] == (second, fourth, first, third)
    assert list(orders) == ["importance", "drift", "importance x drift", "fragility", "reversed"]


def test_sets_and_curves_by_hand():
    plan = planned(IMPORTANCE, DRIFT, FRAGILITY)
    assert plan.grid == (1, 2, 3, 4)
    assert [plan.sets[place] for place in plan.curve(plan.orders["importance"])] == [
        ((0, 1),),
        ((0, 1), (1, 1)),
        ((0, 0), (0, 1), (1, 1)),
        UNITS,
    ]
    assert [plan.sets[place] for place in plan.curve(plan.orders["reversed"])] == [
        ((1, 0),),
        ((0, 0), (1, 0)),
        ((0, 0), (1, 0), (1, 1)),
        UNITS,
    ]
    assert plan.sets[plan.everything] == UNITS


def test_units_that_were_not_measured_come_last_and_are_no_single_sets_of_their_own():
    layout = synthetic.head_layout(2, 2, 1)
    measured = ((0, 1), (1, 1))
    known = synthetic.make_baseline(layout=layout, measured=measured)
    some = synthetic.with_importance(known, [1.0, -2.0])
    still = np.array([0.0, 1.0, 0.0, 1.0])
    plan = plan_repair(some, still, still)
    assert plan.orders["importance"] == ((1, 1), (0, 1), (0, 0), (1, 0))
    # Alone only the measured ones, and what a control order happens to begin with.
    alone = {units[0] for units in plan.sets if len(units) == 1}
    assert alone == {*measured, *(order[0] for order in (plan.orders["reversed"], *plan.random))}
    assert plan.sets[:2] == (((0, 1),), ((1, 1),))


@pytest.mark.parametrize(
    ("heads", "grid"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (4, (1, 2, 3, 4)),
        (6, (1, 2, 3, 5, 6)),
        (32, (1, 2, 3, 5, 8, 13, 21, 32)),
        (34, (1, 2, 3, 5, 8, 13, 21, 34)),
        (144, (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)),
    ],
)
def test_grid_by_hand(heads, grid):
    assert repair_grid(heads) == grid


@given(heads=st.integers(1, 5000))
def test_grid_begins_with_one_ends_with_all_and_leaves_no_wide_gap(heads):
    grid = repair_grid(heads)
    assert (grid[0], grid[-1]) == (1, heads)
    assert all(low < high <= 2 * low for low, high in pairwise(grid))
    assert len(grid) <= 20  # a large model is not run at hundreds of counts


@st.composite
def measures(draw):
    heads = draw(st.integers(1, 40))
    numbers = st.floats(-5, 5)
    importance = draw(arrays(np.float64, heads, elements=numbers))
    return importance, np.abs(draw(arrays(np.float64, heads, elements=numbers))), draw(st.integers(0, 2**16))


@settings(deadline=None)
@given(measures())
def test_every_order_repairs_more_and_more_heads_until_all(given_):
    importance, drift, seed = given_
    plan = planned(importance, drift, drift, seed, layers=1)
    units = tuple((0, place) for place in range(len(importance)))
    assert plan.sets[: len(units)] == tuple((unit,) for unit in units)  # singles first, in order
    assert len(set(plan.sets)) == len(plan.sets)  # nothing is run twice
    assert all(list(chosen) == sorted(set(chosen)) for chosen in plan.sets)
    assert plan.sets[plan.everything] == units
    for order in (*plan.orders.values(), *plan.random):
        assert tuple(sorted(order)) == units
        sets = [plan.sets[place] for place in plan.curve(order)]
        assert [len(chosen) for chosen in sets] == list(plan.grid)
        assert sets[-1] == units
        assert all(set(few) < set(more) for few, more in pairwise(sets))
        assert all(set(places) == set(order[: len(places)]) for places in sets)


@settings(deadline=None)
@given(measures())
def test_orders_are_sorted_by_what_they_are_named_after(given_):
    importance, drift, seed = given_
    size = np.abs(importance.astype(np.float32)).astype(np.float64)  # as they are recorded
    orders = planned(importance, drift, size * drift, seed, layers=1).orders
    by_name = {"importance": size, "drift": drift, "importance x drift": size * drift, "fragility": size * drift}
    for name, values in by_name.items():
        ordered = values[[place for _, place in orders[name]]]
        assert (np.diff(ordered) <= 0).all()
    assert orders["reversed"] == orders["importance"][::-1]


def test_random_orders_follow_the_seed():
    many = np.arange(30.0)
    first, again, other = (planned(many, many, many, seed).random for seed in (1, 1, 2))
    assert first == again
    assert not set(first) & set(other)  # 1 in 30! that two agree by chance
    assert len(set(first)) == RANDOM_ORDERS == 20


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_without_damage_only_all_units_at_once_are_repaired(heads):
    values = np.arange(float(heads))
    plan = planned(values, values, values, layers=1, with_orders=False)
    assert (plan.orders, plan.random, plan.everything) == ({}, (), 0)
    assert plan.sets == (tuple((0, place) for place in range(heads)),)
