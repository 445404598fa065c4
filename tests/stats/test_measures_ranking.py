from math import isnan, nan

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau

from circuitcheck.stats.ranking import (
    at_the_bottom,
    indistinct_from_zero,
    kendall_tau_b,
    rank_biased_overlap,
    rank_biased_overlap_draws,
    ranks,
    reversed_overlap,
    split_half_agreement,
    top_k_overlap,
)

# Few different values, so that ties and equal sizes of either sign are common.
VALUES = st.integers(-4, 4).map(float)
PERSISTENCE = st.floats(0.05, 0.95)
# Sums of at most 12 terms below 1, in another order.
ROUNDING = 1e-14


@st.composite
def pairs(draw):
    """Two importances of the same 1 to 12 heads, and two masks."""
    heads = draw(st.integers(1, 12))
    values = [draw(arrays(np.float64, heads, elements=VALUES)) for _ in range(2)]
    masks = [draw(arrays(np.bool_, heads)) for _ in range(2)]
    return *values, *masks


def slow_overlap(a, b, p, tied_a, tied_b):
    """The definition, with sets: heads ranked at most d, a head's rank being 1 + how many are larger."""

    def ranked(values, tied):
        strengths = [0.0 if mask else abs(value) for value, mask in zip(values, tied, strict=True)]
        return [1 + sum(other > strength for other in strengths) for strength in strengths]

    ranks_a, ranks_b = ranked(a, tied_a), ranked(b, tied_b)
    total = 0.0
    for depth in range(1, 2000):  # 0.95 ** 2000 is 3e-45: no truncation is left
        s = {head for head, rank in enumerate(ranks_a) if rank <= depth}
        t = {head for head, rank in enumerate(ranks_b) if rank <= depth}
        total += (1 - p) * p ** (depth - 1) * 2 * len(s & t) / (len(s) + len(t))
    return total


def test_overlap_of_a_reversed_ranking_by_hand():
    # Depth 1 agrees by 0, depth 2 by 1/2, depth 3 and all beyond by 1: 0.1 * 0.9 / 2 + 0.9 ** 2.
    assert rank_biased_overlap(np.array([3, 2, 1]), np.array([1, 2, 3])) == pytest.approx(0.855, rel=ROUNDING)


def test_overlap_with_ties_by_hand():
    # Depths 1 to 4: 1, 2 * 2 / (3 + 2), 2 * 3 / (3 + 4), 1, and 1 beyond.
    overlap = rank_biased_overlap(np.array([3, -2, 2, 1]), np.array([3, 2, 1, -1]), persistence=0.5)
    assert overlap == pytest.approx(0.5 + 0.25 * 0.8 + 0.125 * 6 / 7 + 0.125, rel=ROUNDING)


def test_weight_of_the_first_ten_ranks():
    # It is 0.8556 at p = 0.9 by the paper's closed form: rankings that share their first ten heads alone reach it.
    # What two orders of the other 4,990 share by chance adds 20 / 4,990 at the depths around 20 that still weigh.
    rng = np.random.default_rng(0)
    a, b = (5000.0 - np.concatenate([np.arange(10), 10 + rng.permutation(4990)]) for _ in range(2))
    assert rank_biased_overlap(a, b) == pytest.approx(0.8556, abs=0.002)


@settings(deadline=None)
@given(case=pairs(), p=PERSISTENCE)
def test_overlap_is_its_definition(case, p):
    a, b, tied_a, tied_b = case
    overlap = rank_biased_overlap(a, b, persistence=p, tied_a=tied_a, tied_b=tied_b)
    assert overlap == pytest.approx(slow_overlap(a, b, p, tied_a, tied_b), abs=10 * ROUNDING)  # 2000 terms there
    assert 0 <= overlap <= 1


@settings(deadline=None)
@given(case=pairs(), p=PERSISTENCE)
def test_overlap_is_symmetric_and_exactly_1_on_itself(case, p):
    a, b, tied_a, tied_b = case
    there = rank_biased_overlap(a, b, persistence=p, tied_a=tied_a, tied_b=tied_b)
    assert there == rank_biased_overlap(b, a, persistence=p, tied_a=tied_b, tied_b=tied_a)
    assert rank_biased_overlap(a, -a, persistence=p, tied_a=tied_a, tied_b=tied_a) == 1


@settings(deadline=None)
@given(case=pairs(), data=st.data())
def test_overlap_does_not_depend_on_the_order_of_heads(case, data):
    a, b, tied_a, tied_b = case
    order = np.array(data.draw(st.permutations(range(len(a)))))
    here = rank_biased_overlap(a, b, tied_a=tied_a, tied_b=tied_b)
    assert rank_biased_overlap(a[order], b[order], tied_a=tied_a[order], tied_b=tied_b[order]) == here


@settings(deadline=None)
@given(st.data())
def test_every_draw_is_the_overlap_of_its_own(data):
    a, b = (data.draw(arrays(np.float64, (4, 6), elements=VALUES)) for _ in range(2))
    tied = data.draw(arrays(np.bool_, (4, 6)))
    drawn = rank_biased_overlap_draws(a, b, persistence=0.7, tied_a=tied)
    alone = [rank_biased_overlap(a[row], b[row], persistence=0.7, tied_a=tied[row]) for row in range(4)]
    np.testing.assert_allclose(drawn, alone, rtol=ROUNDING)
    against_one = rank_biased_overlap_draws(a, b[0], persistence=0.7, tied_b=tied[0])
    alone = [rank_biased_overlap(a[row], b[0], persistence=0.7, tied_b=tied[0]) for row in range(4)]
    np.testing.assert_allclose(against_one, alone, rtol=ROUNDING)


def test_heads_that_do_nothing_are_ties_whatever_their_noise():
    strong, mask = [5.0, 4.0], np.array([False, False, True, True, True])
    a, b = np.array([*strong, 0.1, -0.2, 0.3]), np.array([*strong, -0.3, 0.2, 0.1])
    assert rank_biased_overlap(a, b) < 1
    assert rank_biased_overlap(a, b, tied_a=mask, tied_b=mask) == 1


@pytest.mark.parametrize("tied", [None, np.array([False, True, False])])
def test_nan_importance_has_no_overlap_also_where_it_is_masked(tied):
    bad, good = np.array([1.0, nan, 2.0]), np.array([1.0, 2.0, 3.0])
    assert isnan(rank_biased_overlap(bad, good, tied_a=tied))
    assert isnan(rank_biased_overlap(good, bad, tied_b=tied))
    drawn = rank_biased_overlap_draws(np.stack([bad, good]), good)
    np.testing.assert_array_equal(drawn, [nan, 1.0])


@pytest.mark.parametrize("persistence", [0.0, 1.0, -0.1, nan])
def test_persistence_outside_0_and_1_is_refused(persistence):
    with pytest.raises(ValueError, match="persistence"):
        rank_biased_overlap(np.ones(3), np.ones(3), persistence=persistence)


@pytest.mark.parametrize("measure", [rank_biased_overlap, top_k_overlap, kendall_tau_b])
@pytest.mark.parametrize("shapes", [(3, 2), (0, 0), ((2, 2), (2, 2))])
def test_other_heads_are_refused(measure, shapes):
    with pytest.raises(ValueError, match="not of the same heads"):
        measure(np.ones(shapes[0]), np.ones(shapes[1]))


def test_draws_of_no_heads_are_refused():
    with pytest.raises(ValueError, match="no heads"):
        rank_biased_overlap_draws(np.ones((2, 0)), np.ones((2, 0)))


def test_top_k_by_hand():
    a, b = np.array([5.0, -4.0, 3.0, 0.1, 0.2]), np.array([1.0, -4.0, 3.0, 6.0, 0.2])
    assert [top_k_overlap(a, b, k) for k in (1, 2, 3)] == pytest.approx([0, 1 / 2, 2 / 3], rel=ROUNDING)


def test_top_k_is_capped_at_the_number_of_heads():
    assert top_k_overlap(np.array([1.0, 2.0]), np.array([2.0, 1.0])) == 1


def test_top_k_of_nothing_is_refused_and_of_nan_is_nan():
    with pytest.raises(ValueError, match="k is 0"):
        top_k_overlap(np.ones(3), np.ones(3), 0)
    assert isnan(top_k_overlap(np.array([1.0, nan]), np.array([1.0, 2.0])))
    assert isnan(top_k_overlap(np.array([1.0, 2.0]), np.array([1.0, nan])))


@settings(deadline=None)
@given(case=pairs(), k=st.integers(1, 15))
def test_top_k_is_symmetric_and_1_on_itself(case, k):
    a, b, *_ = case
    assert top_k_overlap(a, -a, k) == 1
    assert top_k_overlap(a, b, k) == top_k_overlap(b, a, k)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [1, 3, 2], 1 / 3),
        ([1, -2, 3], [10, 20, -30], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 1, 2], [1, 2, 3], 2 / np.sqrt(2 * 3)),  # two of three pairs agree, one is tied in the first
        ([2, -2], [0, 0], 1),
        ([1, 2], [3, 3], nan),
        ([1, nan, 2], [1, 2, 3], nan),
    ],
)
def test_kendall_by_hand(a, b, expected):
    a, b = np.array(a, float), np.array(b, float)
    assert kendall_tau_b(a, b) == pytest.approx(expected, rel=ROUNDING, nan_ok=True)
    assert kendall_tau_b(b, a) == pytest.approx(expected, rel=ROUNDING, nan_ok=True)


@settings(deadline=None)
@given(case=pairs())
def test_kendall_is_scipys(case):
    a, b, *_ = (np.abs(values) for values in case)
    assume((a != a[0]).any() and (b != b[0]).any())  # else scipy's is undefined
    assert kendall_tau_b(a, b) == pytest.approx(float(kendalltau(a, b, variant="b").statistic), rel=ROUNDING)


def test_ranks_by_hand():
    result = ranks(np.array([0.5, -3.0, 2.0, 0.5, 0.0]))
    assert result.tolist() == [3, 1, 2, 3, 5]
    assert result.dtype == np.int64


@settings(deadline=None)
@given(arrays(np.float64, st.integers(1, 12), elements=VALUES))
def test_rank_is_1_more_than_how_many_are_larger(importance):
    strengths = np.abs(importance)
    assert ranks(importance).tolist() == [1 + int((strengths > strength).sum()) for strength in strengths]


def test_nan_has_no_rank():
    with pytest.raises(ValueError, match="head 1 is NaN"):
        ranks(np.array([1.0, nan]))


def test_halves_of_equal_prompts_agree_fully():
    effects = np.repeat(np.array([[4.0], [-3.0], [2.0], [1.0]]), 8, axis=1)
    assert split_half_agreement(effects, list("aabbccdd")) == 1


def test_halves_hold_prompts_of_every_cluster():
    # Each cluster lives on a head of its own, strongest first: a half without one of them would rank that head last.
    # All matter by 9 besides, so that none is a tie at the bottom.
    clusters = list("abcabc")
    effects = 9 + np.array([[3.0 * (name == "a"), 2.0 * (name == "b"), 1.0 * (name == "c")] for name in clusters]).T
    assert split_half_agreement(effects, clusters) == 1
    assert split_half_agreement(effects, ["one"] * 6) < 1


@settings(deadline=None)
@given(clusters=st.lists(st.sampled_from("abc"), min_size=4, max_size=15), seed=st.integers(0, 100))
def test_halves_are_even(clusters, seed):
    # Head 0 acts on the first prompt alone: its mean is 1 / (size of the half), or 0. Head 1's effect lies between
    # 1 / n and 1 / (n - 1) with n half of the prompts, rounded down: head 0 leads in a half that is any smaller.
    effects = np.zeros((2, len(clusters)))
    effects[0, 0], effects[1] = 1, 1 / (len(clusters) // 2 - 0.5)
    effects += 9  # so that neither is a tie at the bottom
    assert split_half_agreement(effects, clusters, splits=20, seed=seed) == 1


def test_halves_of_noise_agree_little_and_of_a_clear_ranking_well():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(50, 32))
    clusters = list("abcdefgh") * 4
    # Unrelated rankings of 50 heads agree by d / 50 at depth d: 0.2 at the mean depth of 1 / (1 - p) = 10.
    assert split_half_agreement(noise + 3, clusters) < 0.3
    assert split_half_agreement(noise + 5.0 * np.arange(50)[:, None], clusters) > 0.9  # steps of 5, errors of 0.25


def test_heads_that_cannot_be_told_from_zero_are_ties_in_both_halves():
    noise = np.random.default_rng(0).normal(size=(50, 32))
    clusters = list("abcdefgh") * 4
    assert split_half_agreement(noise, clusters) > 0.9  # intervals at 95 %: two or three of 50 are no ties
    noise[:3] += 9 * np.array([[3], [2], [1]])
    assert split_half_agreement(noise, clusters) > 0.9


def test_negligible_heads_do_not_stand_out_however_certain_they_are():
    """As on a storyteller of 40 heads: many certain ones near 0.11 logits beside one of 5."""
    importance = np.array([5.0, 0.11, -0.3, 0.5])
    draws = np.tile(importance, (10, 1))
    assert at_the_bottom(importance, draws).tolist() == [False, True, False, False]


@pytest.mark.parametrize(("heads", "floor"), [(1, 1.0), (2, 0.9), (3, 0.855), (4, 0.783)])
def test_even_the_reversed_order_of_few_heads_agrees_by_much(heads, floor):
    """Of two heads, the first rank alone disagrees, which weighs 0.1."""
    importance = np.concatenate([np.arange(heads, 0, -1.0), np.full(6, 0.01)])
    tied = importance < 1
    # The bound is given to three digits.
    assert reversed_overlap(importance, tied) == pytest.approx(floor, abs=5e-4)


def test_indistinct_from_zero_by_hand():
    draws = np.array([[1.0, -1.0, 0.0], [2.0, 1.0, 2.0]])
    np.testing.assert_array_equal(indistinct_from_zero(np.array([1.5, 0.5, 1.0]), draws), [False, True, True])


def test_split_half_is_decided_by_its_seed():
    effects = np.random.default_rng(0).normal(size=(20, 16))
    clusters = list("aabbccdd") * 2
    assert split_half_agreement(effects, clusters, seed=1) == split_half_agreement(effects, clusters, seed=1)
    assert split_half_agreement(effects, clusters, seed=1) != split_half_agreement(effects, clusters, seed=2)


def test_split_half_without_halves():
    assert isnan(split_half_agreement(np.ones((3, 1)), ["a"]))
    assert isnan(split_half_agreement(np.array([[1.0, nan], [1.0, 2.0]]), ["a", "a"]))
    with pytest.raises(ValueError, match="cannot halve"):
        split_half_agreement(np.ones((3, 4)), ["a"])
    with pytest.raises(ValueError, match="0 times"):
        split_half_agreement(np.ones((3, 2)), ["a", "a"], splits=0)
