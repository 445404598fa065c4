from math import nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from circuitcheck.stats.bootstrap import (
    cluster_weights,
    drawn_units,
    mean_estimate,
    percentile_level,
    ratio_estimate,
    share_estimate,
    weighted_means,
)
from circuitcheck.stats.estimate import estimate, mean_estimates

CLUSTERS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=20)
MANY_CLUSTERS = CLUSTERS.filter(lambda clusters: len(set(clusters)) > 1)


@settings(deadline=None)
@given(clusters=MANY_CLUSTERS, seed=st.integers(0, 2**32 - 1))
def test_members_of_a_cluster_count_alike_and_as_many_clusters_are_drawn_as_there_are(clusters, seed):
    weights = cluster_weights(clusters, draws=20, seed=seed)
    assert weights.shape == (20, len(clusters))
    first = {name: weights[:, clusters.index(name)] for name in clusters}
    for place, name in enumerate(clusters):
        assert (weights[:, place] == first[name]).all()
    assert (sum(first.values()) == len(first)).all()


@settings(deadline=None)
@given(clusters=CLUSTERS, data=st.data())
def test_order_of_prompts_only_orders_the_weights(clusters, data):
    order = data.draw(st.permutations(range(len(clusters))))
    if len(set(clusters)) == 1:
        order = range(len(clusters))
    shuffled = cluster_weights([clusters[place] for place in order], draws=5)
    np.testing.assert_array_equal(shuffled, cluster_weights(clusters, draws=5)[:, list(order)])


def test_seed_decides():
    clusters = list("aabbccdd")
    np.testing.assert_array_equal(cluster_weights(clusters, seed=3), cluster_weights(clusters, seed=3))
    assert (cluster_weights(clusters, seed=3) != cluster_weights(clusters, seed=4)).any()


def test_every_cluster_is_drawn_once_on_average():
    weights = cluster_weights(list("aaabbc"), draws=4000)
    # A count has variance 1 - 1/3 under a multinomial of 3; 4000 draws leave a standard error of 0.013; five of them.
    np.testing.assert_allclose(weights.mean(0), 1.0, atol=5 * np.sqrt((2 / 3) / 4000))


def test_prompts_of_a_single_cluster_are_drawn_alone():
    weights = cluster_weights(["only"] * 6, draws=50)
    assert (weights.sum(1) == 6).all()
    assert (weights != 1).any(), "always the same prompts: intervals would have no width"


@pytest.mark.parametrize(("clusters", "draws"), [([], 10), (["a"], 0)])
def test_nothing_to_draw_is_refused(clusters, draws):
    with pytest.raises(ValueError, match="cannot draw"):
        cluster_weights(clusters, draws)


def test_weighted_means_by_hand():
    weights = np.array([[1, 1, 0], [0, 2, 1]])
    np.testing.assert_array_equal(weighted_means(weights, np.array([3.0, 6.0, 9.0])), [4.5, 7.0])
    stacked = np.array([[[3.0, 6.0, 9.0], [1.0, 1.0, 1.0]]])
    np.testing.assert_array_equal(weighted_means(weights, stacked), [[[4.5, 1.0]], [[7.0, 1.0]]])


@pytest.mark.parametrize("bad", [nan, np.inf, -np.inf])
def test_value_that_is_not_finite_spoils_every_draw_also_at_weight_0(bad):
    weights = np.array([[1, 1, 0], [0, 2, 1]])
    means = weighted_means(weights, np.array([[3.0, 6.0, bad], [3.0, 6.0, 9.0]]))
    assert np.isnan(means[:, 0]).all()
    np.testing.assert_array_equal(means[:, 1], [4.5, 7.0])


def test_draw_without_prompts_is_nan():
    means = weighted_means(np.array([[0, 0], [1, 1]]), np.array([1.0, 2.0]))
    assert np.isnan(means[0])
    assert means[1] == 1.5


def test_mean_estimate_by_hand():
    result = mean_estimate(np.array([1.0, 2.0, 6.0]), np.array([[3, 0, 0], [1, 1, 1], [0, 1, 2]]))
    # Draws of 1, 3 and 14/3: a standard deviation of sqrt(546 / 243) = 1.49897 and a skewness of -0.11078, for which
    # 1.96 standard errors become 1.96 + 0.11078 * (1 + 2 * 1.96^2) / 6 = 2.12027 below.
    assert (result.value, result.low, result.high) == pytest.approx(
        (3, 3 - 1.49897 * 2.12027, 3 + 1.49897 * 1.95996), abs=1e-4
    )


@pytest.mark.parametrize(
    ("clusters", "expected"),
    # By hand: t of 1 - 0.025 (1 - 1.5 / n) with n - 1 degrees of freedom times sqrt(n / (n - 1)), as a normal level.
    [
        ("ab", 1 - 1e-12),
        ("abcde", 0.999544),
        ("abcdefgh", 0.992620),
        ("abcdefghijklmnop", 0.975863),
        ("aaaaa", 0.999544),
    ],
)
def test_level_of_percentiles_goes_as_far_out_as_students_t(clusters, expected):
    assert percentile_level(list(clusters)) == pytest.approx(expected, abs=1e-6)


def test_level_of_many_clusters_is_the_level_itself():
    assert percentile_level([str(number) for number in range(100_000)]) == pytest.approx(0.95, abs=1e-5)
    assert percentile_level(["a"]) == 0.95


@pytest.mark.parametrize(("clusters", "units"), [("aab", 2), ("aaa", 3), ("a", 1)])
def test_units_are_clusters_or_else_prompts(clusters, units):
    assert drawn_units(list(clusters)) == units


def test_interval_agrees_with_scipys_bootstrap_of_the_same_clusters():
    """scipy draws its own clusters, for one statistic; with 20,000 draws both know the ends to about 0.01."""
    rng = np.random.default_rng(0)
    member = np.repeat(np.arange(9), 4)
    values = rng.normal(size=9)[member] + rng.normal(size=36)
    level = percentile_level([str(name) for name in member])
    weights = cluster_weights([str(name) for name in member], draws=20_000)
    ours = estimate(values.mean(), weighted_means(weights, values), level)
    totals = values.reshape(9, 4).mean(1)
    theirs = bootstrap(
        (totals,), np.mean, n_resamples=20_000, confidence_level=level, method="percentile", rng=0, vectorized=True
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


@pytest.mark.parametrize(("clusters", "plain", "expanded"), [(5, 0.873, 0.974), (8, 0.910, 0.972), (16, 0.928, 0.963)])
def test_few_clusters_are_covered_better_by_students_t(clusters, plain, expanded):
    """What was measured with 4000 data sets; 600 leave a standard error of 0.015, three of them either way."""
    rng = np.random.default_rng(0)
    names = [str(name) for name in np.repeat(np.arange(clusters), 4)]
    weights, level = cluster_weights(names), percentile_level(names)
    hits = np.zeros(2)
    for _ in range(600):
        values = np.repeat(rng.normal(size=clusters), 4) + 0.5 * rng.normal(size=4 * clusters)
        intervals = [mean_estimate(values, weights), mean_estimate(values, weights, level)]
        hits += [interval.low <= 0 <= interval.high for interval in intervals]
    assert hits / 600 == pytest.approx([plain, expanded], abs=0.045)


def _coverage(clusters_of_bootstrap, datasets=400):
    """Share of intervals that hold the true mean 0, for prompts in 30 clusters of 4 that share most of their error."""
    rng = np.random.default_rng(0)
    member = np.repeat(np.arange(30), 4)
    weights = cluster_weights([str(name) for name in clusters_of_bootstrap(member)], draws=400)
    hits = 0
    for _ in range(datasets):
        values = rng.normal(size=30)[member] + 0.3 * rng.normal(size=120)
        interval = mean_estimate(values, weights)
        hits += interval.low <= 0 <= interval.high
    return hits / datasets


def test_interval_over_clusters_covers_the_truth_and_one_over_prompts_does_not():
    # Percentile intervals from 30 clusters cover about 0.94; 400 data sets leave a standard error of 0.012; five of
    # them either way. Prompts taken for independent have intervals half as wide: 2 * Phi(1.96 / 1.9) - 1 is about 0.7.
    assert 0.88 <= _coverage(lambda member: member) <= 1.0
    assert _coverage(lambda member: np.arange(len(member))) < 0.8


def test_share_that_always_hits_has_wilsons_width():
    result = share_estimate(np.ones(10, bool), cluster_weights([str(place) for place in range(10)]))
    assert (result.value, result.high) == (1.0, 1.0)
    assert result.low == pytest.approx(10 / (10 + 1.959964**2), rel=1e-6)  # the quantile is given to 7 digits


def test_share_that_never_hits_has_wilsons_width():
    result = share_estimate(np.zeros(10, bool), cluster_weights([str(place) for place in range(10)]))
    assert (result.value, result.low) == (0.0, 0.0)
    assert result.high == pytest.approx(1.959964**2 / (10 + 1.959964**2), rel=1e-6)


def test_share_by_hand():
    # Wilson of 8 in 10 is (0.4902, 0.9433); draws of weight 1 have no width, so it alone decides.
    result = share_estimate(np.arange(10) < 8, np.ones((5, 10), int))
    assert (result.low, result.high) == pytest.approx((0.4902, 0.9433), abs=5e-5)  # as printed, four digits


def test_share_is_as_uncertain_as_its_clusters():
    hits = np.arange(40) < 20
    clustered = share_estimate(hits, cluster_weights(["a"] * 20 + ["b"] * 20))
    assert (clustered.low, clustered.high) == (0.0, 1.0)
    alone = share_estimate(hits, cluster_weights([str(place) for place in range(40)]))
    assert 0.3 < alone.low < alone.high < 0.7  # 0.5 +- 1.96 * sqrt(0.25 / 40) is 0.345 to 0.655


@pytest.mark.parametrize("measure", [mean_estimate, share_estimate])
@pytest.mark.parametrize("prompts", [0, 2, 4])
def test_values_that_do_not_fit_the_weights_are_refused(measure, prompts):
    with pytest.raises(ValueError, match="do not fit"):
        measure(np.ones(prompts), np.ones((5, 3)))


def test_whole_clusters_may_miss_where_no_prompt_does():
    """16 clusters of 4: changes that a cluster shares say no more than 16 prompts, others as much as 64."""
    hits, names = np.ones(64, bool), [str(number) for number in np.repeat(np.arange(16), 4)]
    weights, rng = cluster_weights(names), np.random.default_rng(0)
    of_cluster, own = 5 + np.repeat(rng.normal(size=16), 4), 5 + rng.normal(size=64)
    shared, apart, unknown = (
        share_estimate(hits, weights, changes=changes, units=16).low for changes in (of_cluster, own, None)
    )
    assert shared == pytest.approx(16 / (16 + 1.96**2), abs=0.01)
    assert unknown == pytest.approx(64 / (64 + 1.96**2), abs=1e-3)
    assert unknown - 0.02 < apart <= unknown


@pytest.mark.parametrize("changes", [np.full(8, 2.0), np.array([np.nan] + [1.0] * 7), np.array([np.inf] + [1.0] * 7)])
def test_changes_that_say_nothing_leave_prompts_independent(changes):
    weights = cluster_weights(list("aabbccdd"))
    found = share_estimate(np.ones(8, bool), weights, changes=changes, units=4)
    assert found == share_estimate(np.ones(8, bool), weights)


@pytest.mark.parametrize(("vanishing", "finite"), [(2, True), (3, False)])
def test_ratio_without_a_denominator_in_more_draws_than_may_miss_has_no_interval(vanishing, finite):
    denominators = np.where(np.arange(100) < vanishing, -0.1, 2.0)
    found = ratio_estimate(1.0, 2.0, np.linspace(0.9, 1.1, 100), denominators)
    assert found.value == 0.5
    assert np.isfinite([found.low, found.high]).tolist() == [finite] * 2


def test_means_reach_further_on_the_side_of_a_tail():
    draws = np.random.default_rng(0).gamma(1.0, size=(5000, 2)) * [1, -1]
    right, left = mean_estimates(np.array([1.0, -1.0]), draws)
    # A skewness of 2 moves 1.96 standard errors by 2 * (1 + 2 * 1.96^2) / 6 = 2.89.
    assert (right.low, right.high) == pytest.approx((1 - 1.96, 1 + 1.96 + 2.89), abs=0.3)
    assert (left.low, left.high) == pytest.approx((-1 - 1.96 - 2.89, -1 + 1.96), abs=0.3)


def test_means_that_do_not_move_have_no_width_and_those_that_are_not_numbers_no_ends():
    still, unknown = mean_estimates(np.array([0.1, np.nan]), np.array([[0.1, np.nan], [0.1 + 1e-17, 1.0]]))
    assert (still.low, still.high) == (0.1, 0.1)
    assert np.isnan([unknown.value, unknown.low, unknown.high]).all()
