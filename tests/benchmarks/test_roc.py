import math

import numpy as np
import pytest
from detection.roc import CALIPER, matched_pairs, roc_area
from hypothesis import given, settings
from hypothesis import strategies as st


def test_area_by_hand():
    # of the 6 pairs the faulty one is larger in (3,1), (3,2), (2,1), equal in (2,2), smaller in (0,1), (0,2)
    assert roc_area([1, 2], [0, 2, 3]).value == pytest.approx(3.5 / 6)


def test_interval_solves_its_equation():
    """Newcombe's fifth interval: |area - end| is 1.96 standard errors of an area that lies at the end."""
    area = roc_area([1, 2, 3, 4], [2.5, 3.5, 4.5, 5.5, 6.5])
    assert area.value == pytest.approx((2 + 3 + 4 + 4 + 4) / 20)
    for end in (area.low, area.high):
        spare = (4 + 5) / 2 - 1
        variance = end * (1 - end) * (1 + spare * (1 - end) / (2 - end) + spare * end / (1 + end)) / 20
        assert abs(area.value - end) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-5)


def test_perfect_separation_is_no_certainty():
    few, many = roc_area([0] * 5, [1] * 5), roc_area([0] * 200, [1] * 200)
    assert few.value == many.value == few.high == many.high == 1
    assert few.low < 0.8 < 0.98 < many.low < 1
    worst = roc_area([1] * 5, [0] * 5)
    assert (worst.value, worst.low) == (0, 0)
    assert worst.high == pytest.approx(1 - few.low)


def test_infinite_scores_rank_highest():
    assert roc_area([-math.inf, 0], [1, math.inf]).value == 1


@pytest.mark.parametrize("groups", [([], [1]), ([1], []), ([math.nan], [1])])
def test_areas_of_nothing_are_refused(groups):
    with pytest.raises(ValueError, match="an area needs scores of both groups"):
        roc_area(*groups)


@settings(deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
)
def test_area_is_the_share_of_pairs_and_its_mirror(benign, faulty):
    area, mirrored = roc_area(benign, faulty), roc_area(faulty, benign)
    pairs = np.sign(np.subtract.outer(faulty, benign))
    assert area.value == pytest.approx((pairs.mean() + 1) / 2)
    assert area.value + mirrored.value == pytest.approx(1)
    assert 0 <= area.low <= area.value <= area.high <= 1
    # the roots are found to the solver's absolute tolerance
    assert area.low == pytest.approx(1 - mirrored.high, abs=1e-6)


def test_pairs_by_hand():
    # 1.1 / 1.0 and 1.3 / 1.0 are below the largest factor, 10 ** 0.15 = 1.41, 1.1 / 0.75 is not: one pair, the closer
    assert matched_pairs([1.0e-3, 0.75e-3, 1.0e-6], [1.1e-3, 1.3e-3, 1.0], [4] * 3, [4] * 3) == [(0, 0)]
    # 1.1 / 0.8 is: the pair 1.1 / 1.0, the closest of all, is given up for two
    assert matched_pairs([1.0e-3, 0.8e-3], [1.1e-3, 1.3e-3], [4, 4], [4, 4]) == [(1, 0), (0, 1)]


def test_pairs_are_of_one_group():
    assert matched_pairs([1e-3, 1e-3], [1e-3], [8, 4], [4]) == [(1, 0)]
    assert matched_pairs([1e-3], [1e-3], [8], [4]) == []
    assert matched_pairs([], [1e-3], [], [4]) == []


def test_rounding_noise_counts_as_equal():
    assert matched_pairs([0.0], [1e-12], [4], [4]) == [(0, 0)]


@settings(deadline=None)
@given(st.lists(st.floats(1e-8, 1.0), min_size=1, max_size=10), st.lists(st.floats(1e-8, 1.0), min_size=1, max_size=10))
def test_pairs_are_close_and_nobody_is_in_two(benign, faulty):
    pairs = matched_pairs(benign, faulty, [0] * len(benign), [0] * len(faulty))
    assert all(abs(math.log10(benign[one] / faulty[other])) <= CALIPER + 1e-12 for one, other in pairs)
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)
