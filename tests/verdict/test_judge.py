"""Three values, and what each says: whole intervals decide, and what is not finite is a failure."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_measurements import circuit_with, exactly, left_out, made_circuit, made_measurement, made_unit
from synthetic_results import make_excess

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.results import Estimate, Judgement, Verdict
from circuitcheck.gate.judge import judge
from circuitcheck.verdict.limits import Limits, limits_for

DRIFT, EXCESS = ("drift_median", "drift_largest"), ("excess", "excess_layer", "excess_unit")
UPPER = ("metric_change", *DRIFT, *EXCESS, "profile_distance", "unrepaired")
LOWER = ("behaviour_kept", "ranking_agreement", "recovery")
LIMIT = 0.5
"""Held against every criterion; all numbers below are binary fractions, so that touching means equal."""


def with_limits(**changes: float) -> Limits:
    """Those of 8 bits but for these."""
    return Limits(**dict(limits_for("8-bit", "synthetic")) | changes)


def verdict_on(name: str, value: Estimate, **measurement) -> tuple[Verdict, Judgement]:
    circuit = circuit_with(name, value)
    verdict = judge(made_measurement(circuit, **measurement), with_limits(**{name: LIMIT}))
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
    part = name in (*DRIFT, *EXCESS, "unrepaired", "recovery")
    assert f"With {32 if part else 64} prompts" in criterion.message
    assert criterion.message.endswith("the value lies on the limit, so more prompts would hardly settle it.")


@pytest.mark.parametrize(("ceiling", "limit"), [(0.5, 0.25), (1.0, 0.5), (nan, 0.5)])
def test_ranking_is_held_to_a_share_of_its_ceiling(ceiling, limit):
    """Another model cannot agree better with a ranking than the ranking with itself on other prompts."""
    for value, word in ((limit, "PASS"), (limit - 0.01, "FAIL")):
        known = circuit_with("ranking_agreement", exactly(value))
        circuit = replace(known, ranking=replace(known.ranking, ceiling=ceiling))
        verdict = judge(made_measurement(circuit), with_limits(ranking_agreement=LIMIT))
        (criterion,) = (criterion for criterion in verdict.criteria if criterion.name == "ranking_agreement")
        assert (criterion.limit, criterion.verdict) == (limit, word)
        said = "(a share of 0.5, by which the reference's own halves agree)" in criterion.message
        assert said == (word == "FAIL" and ceiling == 0.5)


def test_ranking_that_even_the_reversed_order_would_pass_is_no_criterion_and_that_is_said():
    known = circuit_with("ranking_agreement", exactly(0.9))
    circuit = replace(known, ranking=replace(known.ranking, ranked=2, reversed=0.9))
    verdict = judge(made_measurement(circuit))
    assert "ranking_agreement" not in [criterion.name for criterion in verdict.criteria]
    assert verdict.untold == (
        "ranking is no criterion here: 2 units stand out from the others, and their reversed order would still agree "
        "by 0.9.",
    )


@pytest.mark.parametrize(
    ("name", "times"),
    [("excess", "over all units"), ("excess_layer", "in layer 0"), ("excess_unit", "in 0.1")],
)
def test_drift_that_rounding_does_not_explain_is_said_in_those_words(name, times):
    _, criterion = verdict_on(name, Estimate(3.125, 3.0, 3.25))
    assert criterion.message == (
        f"{name} is 3.125 [3, 3.25], must be <= 0.5; not explained by 8-bit rounding: 3.1 times its drift {times}"
    )


def test_unit_is_broken_where_its_whole_interval_lies_beyond_the_limit():
    changes = [Estimate(-1.0, -1.5, -0.5), Estimate(3.0, 2.0, 4.0), Estimate(3.0, nextafter(2.0, 3), 4.0)]
    moved = [made_unit(0, number, importance_change=change) for number, change in enumerate(changes)]
    undefined = made_unit(1, 0, importance_change=exactly(nan))
    circuit = made_circuit(units=(*moved, undefined, left_out(1, 1), made_unit(1, 2, -4.0, -4.0)))
    # Half of 4, the largest importance of the reference.
    assert judge(made_measurement(circuit), with_limits(profile_distance=0.5)).broken == ("0.2", "1.0")


def test_worst_criterion_decides():
    undecided = circuit_with("profile_distance", Estimate(0.3, 0.25, 0.35))
    both = replace(undecided, metric_change=Estimate(0.9, 0.8, 1.0))
    assert judge(made_measurement()).word == "PASS"
    assert judge(made_measurement(undecided)).word == "INCONCLUSIVE"
    assert judge(made_measurement(both)).word == "FAIL"


def test_every_limit_is_held_and_recovery_only_where_there_is_damage():
    names = [criterion.name for criterion in judge(made_measurement()).criteria]
    assert sorted(names) == sorted({*UPPER, *LOWER} - {"recovery", *EXCESS})
    damaged = judge(made_measurement(circuit_with("recovery", exactly(0.9))))
    assert sorted(criterion.name for criterion in damaged.criteria) == sorted({*UPPER, *LOWER} - {*EXCESS})
    assert all(criterion.unit for criterion in damaged.criteria)


def test_limits_of_other_models_hold_only_where_it_is_not_known_what_rounding_does_to_this_one():
    """Of another model's 4 bits: the same drift is much for the one and little for the other."""
    drifted = made_circuit(drift_median=exactly(0.5), drift_largest=exactly(0.9))
    assert judge(made_measurement(drifted)).word == "FAIL"
    known = judge(made_measurement(replace(drifted, excess=make_excess())))
    assert known.word == "PASS"
    assert sorted(criterion.name for criterion in known.criteria) == sorted({*UPPER, *LOWER} - {"recovery", *DRIFT})


def test_limit_on_drift_that_somebody_named_is_held_in_any_case():
    drifted = made_circuit(drift_median=exactly(0.01), drift_largest=exactly(0.05), excess=make_excess())
    verdict = judge(made_measurement(drifted), limits_for("8-bit", "synthetic", {"8-bit": {"drift_largest": 0.04}}))
    found = {criterion.name: criterion.verdict for criterion in verdict.criteria}
    assert (found["drift_largest"], "drift_median" in found, verdict.word) == ("FAIL", False, "FAIL")


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
    circuit = circuit_with("recovery", exactly(0.0))
    circuit = replace(circuit, repair=replace(circuit.repair, damage=damage))
    names = [criterion.name for criterion in judge(made_measurement(circuit)).criteria]
    assert ("recovery" in names) is is_judged


def test_task_that_the_reference_does_not_solve_is_inconclusive_and_never_a_pass():
    unsolved = replace(made_measurement(), circuit=None, inconclusive="the reference solves 3 of 64")
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
    measurement = made_measurement(noise_floor={noise: 0.25})
    generous = with_limits(metric_change=1, drift_median=1, drift_largest=1, profile_distance=1, unrepaired=1)
    judge(measurement, generous)
    with pytest.raises(ConfigurationError, match=f"{name} = {limit:g} is not above the noise floor 0.25") as caught:
        judge(measurement, with_limits(**dict(generous) | {name: limit}))
    assert "Choose other limits" in str(caught.value)
    assert "'synthetic'" in str(caught.value)


def test_ranking_limit_above_what_the_reference_reaches_is_refused():
    measurement = made_measurement(noise_floor={"ranking_change": 0.25})
    assert judge(measurement, with_limits(ranking_agreement=0.75)).word == "PASS"
    with pytest.raises(ConfigurationError, match=r"ranking_agreement = 0.8 is above the reference's own 0\.75"):
        judge(measurement, with_limits(ranking_agreement=0.8))


def test_all_limits_that_cannot_be_judged_are_named_at_once():
    measurement = made_measurement(noise_floor={"drift": 0.9, "ranking_change": 0.5})
    with pytest.raises(ConfigurationError) as caught:
        judge(measurement)
    assert all(name in str(caught.value) for name in ("drift_median", "drift_largest", "ranking_agreement"))


def test_limits_of_the_precision_are_the_default():
    drifted = made_circuit(drift_median=exactly(0.03), drift_largest=exactly(0.05))
    words = {
        precision: judge(made_measurement(drifted, precision=precision)).word
        for precision in ("f32", "f16", "bf16", "int8-sim")
    }
    assert words == {"f32": "FAIL", "f16": "FAIL", "bf16": "PASS", "int8-sim": "PASS"}


def test_precision_without_limits_is_refused_and_not_held_to_the_widest():
    measurement = made_measurement(precision="int4-rnt")
    with pytest.raises(ConfigurationError, match=r"no limits .* precision 'int4-rnt'; known are f32, .*, 2-bit"):
        judge(measurement)
    assert judge(measurement, with_limits()).word == "PASS", "limits that are given need no precision"


class TestLogProbability:
    """Near 0 where the reference is sure, so that a change relative to it says nothing: it is judged in nats."""

    @staticmethod
    def judged(circuit, **changes) -> dict[str, Judgement]:
        metric = {"metric": "log_probability", **changes}
        return {judgement.name: judgement for judgement in judge(made_measurement(circuit, **metric)).criteria}

    def test_a_change_is_held_against_nats_whatever_the_reference_is(self):
        """What int8-sim does to the embedded model on ioi, and, relative to its -0.017 nats, was up to 0.31."""
        circuit = made_circuit(metric_ref=exactly(-0.0167), metric_change=Estimate(0.0024, 0.0011, 0.0052))
        found = self.judged(circuit)["metric_change"]
        assert (found.verdict, found.limit, found.unit) == ("PASS", 0.2, "nats")
        for low, high, word in ((0.1, 0.25, "INCONCLUSIVE"), (0.25, 0.5, "FAIL")):
            circuit = circuit_with("metric_change", Estimate(high, low, high))
            assert self.judged(circuit)["metric_change"].verdict == word

    def test_what_repair_leaves_likewise(self):
        found = self.judged(circuit_with("unrepaired", Estimate(0.215, 0.201, 0.278)))["unrepaired"]
        assert (found.verdict, found.limit, found.unit) == ("FAIL", 0.2, "nats")
        assert found.message.startswith("unrepaired is 0.215 [0.201, 0.278], must be <= 0.2; it does not compute")
        assert "moved little before (drift of z 0.01 in median)" in found.message

    @pytest.mark.parametrize(("low", "is_judged"), [(0.125, True), (0.0625, False), (-0.5, False)])
    def test_recovery_where_the_damage_is_material_in_nats(self, low, is_judged):
        circuit = circuit_with("recovery", exactly(0.0))
        circuit = replace(circuit, repair=replace(circuit.repair, damage=Estimate(1.0, low, 2.0)))
        for reference in (-0.001, -40.0):
            assert ("recovery" in self.judged(replace(circuit, metric_ref=exactly(reference)))) is is_judged

    def test_limits_of_its_own(self):
        relative, nats = with_limits(metric_change=0.005), with_limits(metric_change_nats=0.005)
        for metric, limits, word in (
            ("log_probability", relative, "PASS"),
            ("log_probability", nats, "INCONCLUSIVE"),
            ("logit_difference", relative, "INCONCLUSIVE"),
            ("logit_difference", nats, "PASS"),
            ("package.module:function", nats, "PASS"),
        ):
            assert judge(made_measurement(metric=metric), limits).word == word, (metric, limits)

    def test_limits_below_the_noise_are_refused_by_their_own_name(self):
        measurement = made_measurement(metric="log_probability", noise_floor={"metric_change": 0.25})
        with pytest.raises(ConfigurationError, match=r"unrepaired_nats = 0\.2 is not above the noise floor 0\.25"):
            judge(measurement)

    def test_all_other_criteria_are_the_same(self):
        circuit = circuit_with("recovery", exactly(0.9))
        relative, nats = self.judged(circuit, metric="logit_difference"), self.judged(circuit)
        assert list(relative) == list(nats)
        changed = {name for name in nats if nats[name] != relative[name]}
        assert changed == {"metric_change", "unrepaired"}
