"""How often intervals hold the truth of made-up measurements; benchmarks/interval_coverage.py measures it at length."""

from math import sqrt

import interval_coverage as bench
import pytest

DATA_SETS = 200


def least(measured: float) -> float:
    """What so few data sets of that coverage fall below in one case of a thousand (3.1 standard errors)."""
    return measured - 3.1 * sqrt(measured * (1 - measured) / DATA_SETS)


@pytest.mark.parametrize(
    ("measure", "kind", "clusters", "measured"),
    [
        ("mean", "normal", 8, 0.94),
        ("ratio of means", "skewed", 5, 0.94),
        ("share", "normal", 16, 0.96),
        ("drift_median", "skewed", 5, 0.95),
        ("drift_largest", "clustered", 5, 0.99),
        ("drift_largest of equals", "skewed", 5, 0.98),
        ("profile_distance", "normal", 5, 0.98),
        ("profile_distance", "clustered", 16, 0.98),
        ("all heads at once", "normal", 16, 0.94),
    ],
)
def test_intervals_hold_as_often_as_was_measured(measure, kind, clusters, measured):
    """`measured` is what 600 data sets gave; the least is 0.89 of a coverage of 0.94, and 0.95 of one of 0.98."""
    now, _ = bench.coverage(measure, kind, clusters, DATA_SETS, draws=400)
    assert now >= least(measured)


@pytest.mark.parametrize(
    ("measure", "kind", "was"),
    [("drift_largest of equals", "normal", 0.17), ("profile_distance", "skewed", 0.83)],
)
def test_what_intervals_were_before_held_less_often(measure, kind, was):
    """Percentiles of a maximum, and a scale that was taken for known; 200 data sets know a share to 0.08 (0.83)."""
    now, before = bench.coverage(measure, kind, 8, DATA_SETS, draws=400)
    assert before == pytest.approx(was, abs=0.09)
    assert now >= least(0.98)
