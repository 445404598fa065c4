"""A gate takes as many prompts as it needs, and pays for every look."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fake_runtime import FakeRuntime, fake_task, off
from hypothesis import given
from hypothesis import strategies as st

from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.decide import FEWEST, decide, looks
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
from circuitcheck.stats.bootstrap import cluster_weights, mean_estimate, percentile_level
from circuitcheck.verdict.limits import limits_for

SPEC = MeasurementSpec(draws=200)


@pytest.fixture(scope="module")
def baseline():
    return record_reference(FakeRuntime(), fake_task(256), SPEC)


@given(st.integers(1, 10_000))
def test_looks_double_and_end_with_all_prompts(prompts):
    planned = looks(prompts)
    assert planned[-1] == prompts
    assert len(planned) == 1 or planned[0] >= FEWEST
    assert all(later // 2 == earlier for earlier, later in pairwise(planned))


def test_some_by_hand():
    assert [looks(prompts) for prompts in (40, 64, 127, 128, 256)] == [(40,), (64,), (127,), (64, 128), (64, 128, 256)]


def test_a_clear_case_is_decided_at_the_first_look(baseline):
    for candidate, word in ((FakeRuntime(name="candidate"), "PASS"), (off(0.0), "FAIL")):
        verdict = decide(candidate, baseline)
        assert (verdict.word, verdict.measurement.prompts, verdict.measurement.solved) == (word, 64, 64)
        assert verdict.measurement.notes[-1].startswith("Decided on 64 of 256 prompts, at look 1 of at most 3; so that")
        assert "intervals are at 98.3%" in verdict.measurement.notes[-1]


def test_an_open_case_takes_all_prompts(baseline):
    """A limit on the very value that is measured stays open however many prompts there are."""
    value = measure(off(0.5), baseline).circuit.metric_change.value
    pairs = tuple(replace(pair, cluster=f"c{place % 7}") for place, pair in enumerate(baseline.task.pairs))
    uneven = replace(baseline, task=replace(baseline.task, pairs=pairs))  # clusters with other means: an interval
    verdict = decide(off(0.5), uneven, lambda precision: limits_for(precision, "pencil", {"metric_change": value}))
    assert (verdict.word, verdict.measurement.prompts) == ("INCONCLUSIVE", 256)
    assert "at look 3 of at most 3" in verdict.measurement.notes[-1]


def test_with_few_prompts_there_is_one_look_and_nothing_to_say():
    recorded = record_reference(FakeRuntime(), fake_task(40), SPEC)
    assert not any("look" in note for note in decide(off(0.5), recorded).measurement.notes)


def test_first_prompts_of_a_baseline(baseline):
    some = baseline.first(10)
    assert some.solved == tuple(range(10))
    assert some.z.index == tuple(range(10))
    assert [len(group) for group in some.z.groups] == [sum(some.z.lengths)] == [25]
    assert some.ablated["resample"].shape == (2, 10)
    assert np.array_equal(some.effects("zero"), baseline.effects("zero")[:, :10])
    assert len(some.next_token.likeliest) == 10
    assert (some.task, some.roundings, some.ceiling) == (baseline.task, baseline.roundings, baseline.ceiling)


def test_all_looks_together_miss_no_more_often_than_one_may():
    """Means of 16 clusters of normal values, looked at three times; of 2,000 worlds 5 % may be missed at any look."""
    rng, level, worlds = np.random.default_rng(0), 1 - 0.05 / 3, 2000
    clusters = [f"c{place % 16}" for place in range(256)]
    samples = [
        (count, cluster_weights(clusters[:count], 200), percentile_level(clusters[:count], level))
        for count in looks(256)
    ]
    missed = 0
    for _ in range(worlds):
        values = rng.normal(size=16)[np.arange(256) % 16] + rng.normal(size=256)
        found = [mean_estimate(values[:count], weights, reach) for count, weights, reach in samples]
        missed += any(not one.low <= 0 <= one.high for one in found)
    # Looks share their prompts, so Bonferroni spends more than it has to: well below the 5 % that are allowed.
    assert missed / worlds <= 0.05
