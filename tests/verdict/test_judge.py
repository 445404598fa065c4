"""Three values, and what each says: whole intervals decide, and what is not finite is a failure."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan, nextafter

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.results import Circuit
from circuitcheck.gate.judge import Criterion, Verdict, judge
from circuitcheck.stats.estimate import Estimate
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
    if name == "recovery":
        return replace(circuit, repair=replace(circuit.repair, recovery=value, damage=synthetic.exactly(2.0)))
    if name == "unrepaired":
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


COMMAND = (
    "--circuit-prompts 256 (or a longer task file) with --circuit-against-base, or with baselines accepted under it"
)
PART = f"--circuit-part 128 {COMMAND.replace('256', '128')}"


@pytest.mark.parametrize(
    ("name", "used", "way_out"),
    [("profile_distance", 64, COMMAND), ("drift_median", 32, PART), ("unrepaired", 32, PART)],
)
def test_inconclusive_says_what_could_have_been_seen_and_how_many_prompts_would_settle_it(name, used, way_out):
    """An interval that reaches 0.5 at a distance of 0.25 has to be halved, which takes four times the prompts."""
    _, criterion = verdict_on(name, Estimate(0.25, 0.25, 0.75))
    assert criterion.message == (
        f"{name} is 0.25 [0.25, 0.75], must be <= 0.5: the interval contains the limit. With {used} prompts from 8 "
        f"templates the smallest distance from it that could have been seen is 0.5; about {4 * used}, in as many more "
        f"templates, would settle it: {way_out}."
    )


def test_only_the_arm_that_reaches_for_the_limit_counts():
    _, criterion = verdict_on("profile_distance", Estimate(0.75, 0.375, 17.0))
    assert "could have been seen is 0.38; about 144," in criterion.message
    _, criterion = verdict_on("ranking_agreement", Estimate(0.75, 0.25, 0.8))
    assert "could have been seen is 0.5; about 256," in criterion.message


def test_prompts_that_the_reference_does_not_solve_have_to_be_asked_for_too():
    _, criterion = verdict_on("profile_distance", Estimate(0.25, 0.25, 0.75), prompts=128)
    assert "about 256," in criterion.message
    assert "--circuit-prompts 512 " in criterion.message


def test_part_that_is_all_that_was_solved_takes_more_prompts():
    _, criterion = verdict_on("drift_median", Estimate(0.25, 0.25, 0.75), solved=32, prompts=32)
    assert "about 128," in criterion.message
    assert "--circuit-prompts 128 " in criterion.message


@pytest.mark.parametrize("name", [*UPPER, *LOWER])
def test_prompts_are_those_that_the_criterion_was_measured_on(name):
    _, criterion = verdict_on(name, Estimate(0.5, 0.25, 0.75))
    part = name in ("drift_median", "drift_largest", "unrepaired", "recovery")
    assert f"With {32 if part else 64} prompts" in criterion.message
    assert criterion.message.endswith("the value lies on the limit, so more prompts would hardly settle it.")


@pytest.mark.parametrize(("ceiling", "is_said"), [(0.4375, True), (0.5, False), (nan, False)])
def test_limit_above_the_ceiling_of_the_ranking_is_said(ceiling, is_said):
    for value in (Estimate(0.375, 0.25, 0.4375), Estimate(0.375, 0.25, 0.75)):
        known = circuit_with("ranking_agreement", value)
        circuit = replace(known, ranking=replace(known.ranking, ceiling=ceiling))
        verdict = judge(synthetic.make_measurement(circuit), Limits(ranking_agreement=LIMIT))
        (criterion,) = (criterion for criterion in verdict.criteria if criterion.name == "ranking_agreement")
        assert ("(the reference's own halves agree by 0.4375 only" in criterion.message) == is_said


def test_head_is_broken_where_its_whole_interval_lies_beyond_the_limit():
    changes = [Estimate(-1.0, -1.5, -0.5), Estimate(3.0, 2.0, 4.0), Estimate(3.0, nextafter(2.0, 3), 4.0)]
    heads = [synthetic.make_head(0, number, importance_change=change) for number, change in enumerate(changes)]
    undefined = synthetic.make_head(1, 0, importance_change=synthetic.exactly(nan))
    unswept = replace(undefined, head=1, rank_ref=None, rank_cand=None)
    circuit = synthetic.make_circuit(heads=(*heads, undefined, unswept, synthetic.make_head(1, 2, -4.0, -4.0)))
    # Half of 4, the largest importance of the reference.
    assert judge(synthetic.make_measurement(circuit), Limits(profile_distance=0.5)).broken == ((0, 2), (1, 0))


def test_worst_criterion_decides():
    undecided = circuit_with("profile_distance", Estimate(0.3, 0.25, 0.35))
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


@pytest.mark.parametrize(
    ("damage", "is_judged"),
    [
        (Estimate(0.75, 0.5, 1.0), True),
        (Estimate(-0.75, -1.0, -0.5), True),
        (Estimate(0.5, 0.375, 1.0), False),  # might be less than a tenth of 4 logits
        (Estimate(0.5, -1.0, 2.0), False),
    ],
)
def test_recovery_is_judged_where_the_damage_is_more_than_a_tenth_of_the_metric(damage, is_judged):
    """4-bit weights cost a few hundredths of the metric; that repair gives back little of it is no fault."""
    circuit = circuit_with("recovery", synthetic.exactly(0.0))
    circuit = replace(circuit, repair=replace(circuit.repair, damage=damage))
    names = [criterion.name for criterion in judge(synthetic.make_measurement(circuit)).criteria]
    assert ("recovery" in names) is is_judged


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
