"""Three values, and what each says: whole intervals decide, and what is not finite is a failure."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan, nextafter

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from circuitcheck.errors import ConfigurationError
from circuitcheck.measurement.data import Circuit
from circuitcheck.measures.estimate import Estimate
from circuitcheck.verdict.judge import Criterion, Verdict, judge
from circuitcheck.verdict.limits import Limits

UPPER = ("metric_change", "drift_median", "drift_largest", "profile_distance", "unrepaired")
LOWER = ("behaviour_kept", "ranking_agreement", "recovery")
LIMIT = 0.5
"""Held against every criterion; all numbers below are binary fractions, so that touching means equal."""


def circuit_with(name: str, value: Estimate) -> Circuit:
    """A circuit without fault but for one measure."""
    circuit = synthetic.make_circuit()
    if name == "ranking_agreement":
        return replace(circuit, ranking=replace(circuit.ranking, agreement=value))
    if name in ("unrepaired", "recovery"):
        return replace(circuit, repair=replace(circuit.repair, **{name: value}))
    return replace(circuit, **{name: value})


def verdict_on(name: str, value: Estimate, **measurement) -> tuple[Verdict, Criterion]:
    circuit = circuit_with(name, value)
    verdict = judge(synthetic.make_measurement(circuit, **measurement), replace(Limits(), **{name: LIMIT}))
    return verdict, next(criterion for criterion in verdict.criteria if criterion.name == name)


AT_THE_EDGES = [
    # value, low, high, word for an upper limit
    (0.25, 0.125, 0.375, "PASS"),
    (0.25, 0.125, 0.5, "PASS"),  # the interval touches the limit from the right side
    (0.5, 0.5, 0.5, "PASS"),  # the limit itself is allowed
    (0.25, 0.125, nextafter(0.5, 1), "INCONCLUSIVE"),
    (0.5, 0.25, 0.75, "INCONCLUSIVE"),
    (0.75, 0.5, 1.0, "INCONCLUSIVE"),  # touching from the wrong side still contains an allowed value
    (0.75, nextafter(0.5, 1), 1.0, "FAIL"),
    (0.75, 0.625, 0.875, "FAIL"),
]


@pytest.mark.parametrize("name", UPPER)
@pytest.mark.parametrize(("value", "low", "high", "word"), AT_THE_EDGES)
def test_upper_limits_at_the_edges(name, value, low, high, word):
    verdict, criterion = verdict_on(name, Estimate(value, low, high))
    assert (criterion.verdict, criterion.relation, criterion.limit) == (word, "<=", LIMIT)
    assert verdict.word == word


@pytest.mark.parametrize("name", LOWER)
@pytest.mark.parametrize(("value", "low", "high", "word"), AT_THE_EDGES)
def test_lower_limits_at_the_edges(name, value, low, high, word):
    # The same intervals mirrored at the limit.
    verdict, criterion = verdict_on(name, Estimate(1 - value, 1 - high, 1 - low))
    assert (criterion.verdict, criterion.relation, criterion.limit) == (word, ">=", LIMIT)
    assert verdict.word == word


@given(st.sampled_from(UPPER + LOWER), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_word_follows_from_the_interval_alone(name, one, two, three):
    low, value, high = sorted((one, two, three))
    _, criterion = verdict_on(name, Estimate(value, low, high))
    right = (low <= LIMIT, high <= LIMIT) if name in UPPER else (low >= LIMIT, high >= LIMIT)
    assert criterion.verdict == {(True, True): "PASS", (False, False): "FAIL"}.get(right, "INCONCLUSIVE")
    assert (criterion.message == "") == (criterion.verdict == "PASS")


@pytest.mark.parametrize("name", UPPER + LOWER)
@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(nan, nan, nan), (0.0, nan, nan), (nan, 0.0, 0.0), (inf, 0.0, inf), (0.5, -inf, inf), (1.0, 1.0, inf)],
)
def test_what_is_not_finite_fails_with_its_own_message(name, value, low, high):
    verdict, criterion = verdict_on(name, Estimate(value, low, high))
    assert verdict.word == criterion.verdict == "FAIL"
    assert criterion.message == f"{name} could not be measured: it is not finite"


def test_failure_says_value_interval_and_limit():
    _, criterion = verdict_on("profile_distance", Estimate(0.75, 0.625, 0.875))
    assert criterion.message == "profile_distance is 0.75 [0.625, 0.875], must be <= 0.5"
    _, criterion = verdict_on("recovery", Estimate(0.25, 0.125, 0.375))
    assert criterion.message == "recovery is 0.25 [0.125, 0.375], must be >= 0.5"


@pytest.mark.parametrize(("name", "prompts"), [("profile_distance", 64), ("drift_median", 32), ("unrepaired", 32)])
def test_inconclusive_says_what_could_have_been_seen_and_how_many_prompts_would_settle_it(name, prompts):
    """An interval that reaches 0.5 at a distance of 0.25 has to be halved, which takes four times the prompts."""
    _, criterion = verdict_on(name, Estimate(0.25, 0.25, 0.75))
    assert criterion.message == (
        f"{name} is 0.25 [0.25, 0.75], must be <= 0.5: the interval contains the limit. With {prompts} prompts a "
        f"distance of 0.5 from the limit could have been seen; about {4 * prompts} prompts would settle it."
    )


@pytest.mark.parametrize("name", [*UPPER, *LOWER])
def test_prompts_are_those_that_the_criterion_was_measured_on(name):
    _, criterion = verdict_on(name, Estimate(0.5, 0.25, 0.75))
    part = name in ("drift_median", "drift_largest", "unrepaired", "recovery")
    assert f"With {32 if part else 64} prompts" in criterion.message
    assert criterion.message.endswith("the value lies on the limit, so more prompts would hardly settle it.")


def test_worst_criterion_decides():
    undecided = circuit_with("profile_distance", Estimate(0.25, 0.2, 0.3))
    both = replace(undecided, metric_change=Estimate(0.9, 0.8, 1.0))
    assert judge(synthetic.make_measurement()).word == "PASS"
    assert judge(synthetic.make_measurement(undecided)).word == "INCONCLUSIVE"
    assert judge(synthetic.make_measurement(both)).word == "FAIL"


def test_every_limit_is_held_and_recovery_only_where_there_is_damage():
    names = [criterion.name for criterion in judge(synthetic.make_measurement()).criteria]
    assert sorted(names) == sorted(set(UPPER + LOWER) - {"recovery"})
    damaged = judge(synthetic.make_measurement(circuit_with("recovery", synthetic.exactly(0.9))))
    assert sorted(criterion.name for criterion in damaged.criteria) == sorted(UPPER + LOWER)
    assert all(criterion.unit for criterion in damaged.criteria)


def test_task_that_the_reference_does_not_solve_is_inconclusive_and_never_a_pass():
    unsolved = replace(synthetic.make_measurement(), circuit=None, inconclusive="the reference solves 3 of 64")
    verdict = judge(unsolved)
    assert (verdict.word, verdict.criteria, verdict.message) == ("INCONCLUSIVE", (), "the reference solves 3 of 64")
    silent = judge(replace(unsolved, inconclusive=None))
    assert (silent.word, silent.message) == ("INCONCLUSIVE", "nothing was measured")


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("drift_median", "drift"),
        ("drift_largest", "drift"),
        ("metric_change", "metric_change"),
        ("unrepaired", "metric_change"),
        ("profile_distance", "profile_distance"),
    ],
)
@pytest.mark.parametrize("limit", [0.0, 0.125, 0.25])
def test_limit_that_the_reference_itself_could_miss_is_refused(name, noise, limit):
    measurement = synthetic.make_measurement(noise_floor={noise: 0.25})
    generous = Limits(metric_change=1, drift_median=1, drift_largest=1, profile_distance=1, unrepaired=1)
    judge(measurement, generous)
    with pytest.raises(ConfigurationError, match=f"{name} = {limit:g} is not above the noise floor 0.25") as caught:
        judge(measurement, replace(generous, **{name: limit}))
    assert "Choose other limits" in str(caught.value)
    assert "'synthetic'" in str(caught.value)


def test_ranking_limit_above_what_the_reference_reaches_is_refused():
    measurement = synthetic.make_measurement(noise_floor={"ranking_change": 0.25})
    assert judge(measurement, Limits(ranking_agreement=0.75)).word == "PASS"
    with pytest.raises(ConfigurationError, match=r"ranking_agreement = 0.8 is above the reference's own 0\.75"):
        judge(measurement, Limits(ranking_agreement=0.8))


def test_all_limits_that_cannot_be_judged_are_named_at_once():
    measurement = synthetic.make_measurement(noise_floor={"drift": 0.9, "ranking_change": 0.5})
    with pytest.raises(ConfigurationError) as caught:
        judge(measurement, Limits())
    assert all(name in str(caught.value) for name in ("drift_median", "drift_largest", "ranking_agreement"))


def test_limits_of_the_precision_are_the_default():
    drifted = synthetic.make_circuit(drift_median=synthetic.exactly(0.03), drift_largest=synthetic.exactly(0.05))
    words = {
        precision: judge(synthetic.make_measurement(drifted, precision=precision)).word
        for precision in ("f32", "f16", "bf16", "int8-sim", "unheard-of")
    }
    assert words == {"f32": "FAIL", "f16": "FAIL", "bf16": "PASS", "int8-sim": "PASS", "unheard-of": "PASS"}
