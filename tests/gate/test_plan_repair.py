"""Which heads are repaired together, and in which order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.gate.repair_plan import RANDOM_ORDERS, plan_repair, repair_grid

IMPORTANCE = np.array([1.0, -3.0, 0.5, 2.0])
DRIFT = np.array([0.1, 0.1, 0.9, 0.4])
FRAGILITY = np.array([0.2, 0.5, 0.1, 0.3])


def test_orders_by_hand():
    orders = plan_repair(IMPORTANCE, DRIFT, FRAGILITY, seed=0).orders
    assert orders["importance"] == (1, 3, 0, 2)
    assert orders["drift"] == (2, 3, 0, 1)  # of the two equals the first goes first
    assert orders["importance x drift"] == (3, 2, 1, 0)  # 0.8, 0.45, 0.3, 0.1
    assert orders["reversed"] == (2, 0, 3, 1)
    assert orders["fragility"] == (1, 3, 0, 2)
    assert list(orders) == ["importance", "drift", "importance x drift", "fragility", "reversed"]


def test_sets_and_curves_by_hand():
    plan = plan_repair(IMPORTANCE, DRIFT, FRAGILITY, seed=0)
    assert plan.grid == (1, 2, 3, 4)
    assert [plan.head_sets[place] for place in plan.curve(plan.orders["importance"])] == [
        (1,),
        (1, 3),
        (0, 1, 3),
        (0, 1, 2, 3),
    ]
    assert [plan.head_sets[place] for place in plan.curve(plan.orders["reversed"])] == [
        (2,),
        (0, 2),
        (0, 2, 3),
        (0, 1, 2, 3),
    ]
    heads = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert plan.heads(heads)[plan.curve(plan.orders["importance"])[2]] == [(0, 0), (0, 1), (1, 1)]


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
    heads = len(importance)
    plan = plan_repair(importance, drift, drift, seed)
    assert plan.head_sets[:heads] == tuple((place,) for place in range(heads))  # singles first, in order
    assert len(set(plan.head_sets)) == len(plan.head_sets)  # nothing is run twice
    assert all(list(places) == sorted(set(places)) for places in plan.head_sets)
    assert plan.head_sets[plan.everything] == tuple(range(heads))
    for order in (*plan.orders.values(), *plan.random):
        assert sorted(order) == list(range(heads))
        sets = [plan.head_sets[place] for place in plan.curve(order)]
        assert [len(places) for places in sets] == list(plan.grid)
        assert sets[-1] == tuple(range(heads))
        assert all(set(few) < set(more) for few, more in pairwise(sets))
        assert all(set(places) == set(order[: len(places)]) for places in sets)


@settings(deadline=None)
@given(measures())
def test_orders_are_sorted_by_what_they_are_named_after(given_):
    importance, drift, seed = given_
    size = np.abs(importance)
    orders = plan_repair(importance, drift, size * drift, seed).orders
    by_name = {"importance": size, "drift": drift, "importance x drift": size * drift, "fragility": size * drift}
    for name, values in by_name.items():
        ordered = values[list(orders[name])]
        assert (np.diff(ordered) <= 0).all()
    assert orders["reversed"] == orders["importance"][::-1]


def test_random_orders_follow_the_seed():
    many = np.arange(30.0)
    first, again, other = (plan_repair(many, many, many, seed).random for seed in (1, 1, 2))
    assert first == again
    assert not set(first) & set(other)  # 1 in 30! that two agree by chance
    assert len(set(first)) == RANDOM_ORDERS == 20


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_without_damage_there_are_no_orders(heads):
    values = np.arange(float(heads))
    plan = plan_repair(values, values, values, 0, with_orders=False)
    assert (plan.orders, plan.random) == ({}, ())
    singles = tuple((place,) for place in range(heads))
    assert plan.head_sets == (singles if heads == 1 else (*singles, tuple(range(heads))))
    assert plan.head_sets[plan.everything] == tuple(range(heads))
