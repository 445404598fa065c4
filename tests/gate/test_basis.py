"""Units beside each other by what they write: numbers by hand, and whatever basis a unit keeps its values in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_baseline

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.activations import Activations
from circuitcheck.core.reading import LEAST_TOKENS, Reading, tokens_to_read
from circuitcheck.core.units import Group, Layout
from circuitcheck.gate.basis import Written, basis_of, compare_writes
from circuitcheck.stats.drift import relative_drift

FIRST = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
SECOND = [[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
"""What a unit's two numbers write of three tokens: `[3, 2]` of either unit."""

FLOAT32 = 1e-6
"""A few sums of float32 numbers."""

FITTED = 1e-4
"""The same through a map and its inverse, whose condition is 10 at most."""


class Read:
    """A candidate of which nothing is asked but how its units are read."""

    def __init__(self, *maps: Any) -> None:
        self.maps = tuple(np.array(one, np.float32) for one in maps)

    def reading(self, kind: str, tokens: tuple[int, ...], amplitudes: list[float]) -> Reading:
        assert len(amplitudes) == len(self.maps)
        return Reading("unembedding", tokens, self.maps)


def values(*groups: Any) -> Activations:
    """Values of one prompt: for each group `[positions, count, width]`."""
    arrays = tuple(np.array(group, np.float32) for group in groups)
    return Activations((0,), (len(arrays[0]),), arrays)


def baseline_of(z: Activations, *maps: Any) -> Baseline:
    """A reference whose units have these values and maps."""
    groups = tuple(Group(str(place), place, *group.shape[1:]) for place, group in enumerate(z.groups))
    reading = Reading("unembedding", tuple(range(len(maps[0][0]))), tuple(np.array(one, np.float32) for one in maps))
    return replace(make_baseline(), layout=Layout("head", groups), z=z, reading=reading)


def one_position(*units: Any) -> Activations:
    return values([units])


class TestReadingByHand:
    def test_writes(self):
        reading = Reading("unembedding", (0, 1, 2), (np.array([FIRST, SECOND], np.float32),))
        (written,) = reading.writes(one_position([3, 4], [5, 6])).groups
        assert written.tolist() == [[[3, 4, 7], [10, 12, 0]]]

    def test_moved_goes_the_shortest_way_that_writes_the_change(self):
        reading = Reading("unembedding", (0, 1, 2), (np.array([FIRST, SECOND], np.float32),))
        # Unit 0 can write (a, b, a + b); of (1, 0, 0) the nearest is (2, -1, 1) / 3. Unit 1 halves and drops the third.
        (moved,) = reading.moved(one_position([3, 4], [5, 6]), values([[[1, 0, 0], [2, 4, 9]]])).groups
        assert np.allclose(moved, [[[3 + 2 / 3, 4 - 1 / 3], [6, 8]]], atol=FLOAT32)

    @pytest.mark.parametrize("faint", [0.0, 1e-4])
    def test_what_cannot_be_read_stays_as_it_was(self, faint):
        """The second number writes nothing, or nothing to speak of beside the first."""
        reading = Reading("unembedding", (0, 1), (np.array([[[2, 0], [0, faint]]], np.float32),))
        (moved,) = reading.moved(one_position([3, 4]), values([[[2, 5]]])).groups
        assert np.allclose(moved, [[[4, 4]]], atol=FLOAT32)

    def test_a_map_that_groups_share_is_one(self):
        shared = np.array([FIRST], np.float32)
        reading = Reading("unembedding", (0, 1, 2), (shared, shared))
        moved = reading.moved(values([[[0, 0]]], [[[1, 1]]]), values([[[1, 0, 1]]], [[[0, 1, 1]]]))
        assert [group.round(6).tolist() for group in moved.groups] == [[[[1, 0]]], [[[1, 2]]]]


def test_tokens_are_enough_to_tell_a_value_from_and_the_same_every_time():
    layout = Layout("head", (Group("0", 0, 2, 8), Group("1", 1, 2, 32)))
    tokens = tokens_to_read(layout, 1000, seed=0)
    assert len(tokens) == len(set(tokens)) == 128
    assert tokens == tuple(sorted(tokens)) == tokens_to_read(layout, 1000, seed=0) != tokens_to_read(layout, 1000, 1)
    assert tokens_to_read(layout, 50, seed=0) == tuple(range(50))
    assert tokens_to_read(layout, None, seed=0) == tuple(range(128))
    assert len(tokens_to_read(Layout("head", (Group("0", 0, 2, 2),)), 1000, seed=0)) == LEAST_TOKENS


class TestByHand:
    """Two units of two numbers, read at three tokens, at one position."""

    baseline = baseline_of(one_position([3, 4], [5, 6]), [FIRST, SECOND])

    def compared(self, z: Activations, *maps: Any) -> Written:
        return compare_writes(self.baseline, Read(*maps), z)

    def test_a_unit_that_is_scaled_and_read_back_has_not_changed(self):
        half = (np.array(FIRST) / 2).tolist()
        written = self.compared(one_position([6, 8], [5, 6]), [half, SECOND])
        assert relative_drift(written.sums).tolist() == [0, 0]
        assert relative_drift(written.coordinates).tolist() == [1, 0]
        basis = basis_of(self.baseline, written)
        assert (basis.changed, basis.largest_drift_z, basis.largest_drift) == (("0.0",), 1, 0)
        assert (basis.renumbered, basis.unread) == ({}, 0)

    def test_a_unit_that_is_scaled_alone_has(self):
        written = self.compared(one_position([6, 8], [5, 6]), [FIRST, SECOND])
        assert relative_drift(written.sums).tolist() == [1, 0]
        assert np.allclose(written.moved.groups[0], [[[6, 8], [5, 6]]], atol=FLOAT32)
        assert np.allclose(written.repair.groups[0], [[[3, 4], [5, 6]]], atol=FLOAT32)
        assert basis_of(self.baseline, written).changed == ()

    def test_a_pruned_unit_has_lost_all_that_it_wrote(self):
        written = self.compared(one_position([3, 4], [5, 6]), [np.zeros((3, 2)), SECOND])
        assert relative_drift(written.sums).tolist() == [1, 0]
        assert np.allclose(written.moved.groups[0], [[[0, 0], [5, 6]]], atol=FLOAT32)
        assert written.repair.groups[0].tolist() == [[[3, 4], [5, 6]]]  # no value gives it back
        assert basis_of(self.baseline, written).unread < FLOAT32

    def test_what_the_reference_has_no_value_for_is_unread(self):
        # (3, 4, 7) becomes (3, 4, 4): of the change (0, 0, -3) it can say (-1, -1, -2).
        written = self.compared(one_position([3, 4], [5, 6]), [[[1, 0], [0, 1], [0, 1]], SECOND])
        assert np.allclose(written.moved.groups[0], [[[2, 3], [5, 6]]], atol=FLOAT32)
        assert basis_of(self.baseline, written).unread == pytest.approx(np.sqrt(3 / 74), rel=FLOAT32)

    def test_renumbered_units_are_found_and_repaired_in_the_candidates_order(self):
        # The candidate's unit 1 plays the part of unit 0, at half its size.
        written = self.compared(one_position([5, 6], [1.5, 2]), [SECOND, FIRST])
        assert [places.tolist() for places in written.order] == [[1, 0]]
        assert written.renumbered == {(0, 0): (0, 1), (0, 1): (0, 0)}
        assert relative_drift(written.sums).tolist() == [0.5, 0]
        assert relative_drift(written.coordinates).tolist() == [0.5, 0]
        assert np.allclose(written.repair.groups[0], [[[3, 4], [5, 6]]], atol=FLOAT32)
        assert np.allclose(written.repair_in_place.groups[0], [[[5, 6], [3, 4]]], atol=FLOAT32)
        assert written.of_candidate(((0, 0), (0, 1))) == ((0, 1), (0, 0))
        assert basis_of(self.baseline, written).renumbered == {"0.0": "0.1", "0.1": "0.0"}

    def test_what_is_not_clearly_anothers_part_keeps_its_number(self):
        # Squared distances from (3, 4, 7) and (10, 12, 0): 13.5 and 162.5 with these numbers, 1.5 and 172.5 the other
        # way round, which is less in all; but the second unit writes nothing like the first.
        written = self.compared(one_position([4.5, 5.5], [3.5, 4.5]), [FIRST, FIRST])
        assert [places.tolist() for places in written.order] == [[0, 1]]


def test_a_pair_that_is_not_clear_does_not_keep_others_from_being_found():
    """Units 2 and 3 write next to nothing, and a bit more like each other than like themselves."""
    unit = [[1.0, 0], [0, 1], [0, 0]]
    baseline = baseline_of(one_position([3, 0], [0, 5], [0.02, 0.01], [0.01, 0.02]), [unit] * 4)
    candidate = one_position([0, 5], [3, 0], [0.0145, 0.0155], [0.0155, 0.0145])
    assert compare_writes(baseline, Read([unit] * 4), candidate).order[0].tolist() == [1, 0, 2, 3]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_no_invertible_map_inside_units_and_no_order_of_them_is_a_change(seed, count, width, is_renumbered):
    rng = np.random.default_rng(seed)
    positions, tokens, groups = 12, 24, 2

    def invertible() -> np.ndarray:
        left, right = (np.linalg.qr(rng.normal(size=(width, width)))[0] for _ in range(2))
        return left @ np.diag(rng.uniform(2, 20, width)) @ right  # never near the identity, nor singular

    z = [rng.normal(size=(positions, count, width)) for _ in range(groups)]
    maps = [rng.normal(size=(count, tokens, width)) for _ in range(groups)]
    turns = [np.stack([invertible() for _ in range(count)]) for _ in range(groups)]
    order = [rng.permutation(count) if is_renumbered else np.arange(count) for _ in range(groups)]
    theirs = [np.einsum("cij,pcj->pci", turn, own)[:, at] for turn, own, at in zip(turns, z, order, strict=True)]
    read = [(own @ np.linalg.inv(turn))[at] for turn, own, at in zip(turns, maps, order, strict=True)]
    baseline = baseline_of(values(*z), *maps)
    written = compare_writes(baseline, Read(*read), values(*theirs))
    for found, planted in zip(written.order, order, strict=True):
        assert planted[found].tolist() == list(range(count))
    assert relative_drift(written.sums).max() < FLOAT32
    assert relative_drift(written.coordinates).min() > 0.1
    for ours, moved in zip(baseline.z.groups, written.moved.groups, strict=True):
        assert np.abs(moved - ours).max() < FITTED
    for here, there in zip(theirs, written.repair_in_place.groups, strict=True):
        assert np.abs(here - there).max() < FITTED * 20
    basis = basis_of(baseline, written)
    assert len(basis.changed) == groups * count
    assert basis.unread < FLOAT32
