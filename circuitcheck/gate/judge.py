"""Holds a measurement against its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.results import Circuit, Measurement
from circuitcheck.runtimes.pytorch.ports.structure import Head
from circuitcheck.stats.estimate import Estimate, magnitude
from circuitcheck.verdict.limits import Limits, limits_for

Word = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Relation = Literal["<=", ">="]


@dataclass(frozen=True)
class Criterion:
    """One measure held against one limit.

    Attributes:
        name: of the measure, and of the limit.
        value: what was measured, with its interval.
        relation: on which side of the limit the value must lie.
        limit: the limit.
        unit: of value and limit.
        verdict: PASS where the whole interval is on the right side, FAIL where it is on the wrong side.
        message: what a reader of a red build needs to know; empty for PASS.
    """

    name: str
    value: Estimate
    relation: Relation
    limit: float
    unit: str
    verdict: Word
    message: str


@dataclass(frozen=True)
class Verdict:
    """All criteria of one candidate on one task.

    Attributes:
        measurement: what was judged.
        word: FAIL if any criterion fails, else INCONCLUSIVE if any is, else PASS.
        criteria: every criterion; empty where the task itself is inconclusive.
        message: why there are no criteria; empty where there are.
        broken: heads whose importance has moved beyond the limit on profile distance, with the whole interval that
            holds for all heads at once; and heads whose change is not finite.
    """

    measurement: Measurement
    word: Word
    criteria: tuple[Criterion, ...]
    message: str = ""
    broken: tuple[Head, ...] = ()


NOISE: dict[str, str] = {
    "drift_median": "drift",
    "drift_largest": "drift",
    "metric_change": "metric_change",
    "profile_distance": "profile_distance",
    "unrepaired": "metric_change",
}
"""Criterion to the noise that its limit must exceed."""

MATERIAL = 0.1
"""Share of the reference's metric beyond which damage must be recoverable by repairing its heads."""

OF_THE_PART = ("drift_median", "drift_largest", "unrepaired", "recovery")
"""Criteria that are measured on the part of the solved prompts that baselines keep z of."""


def judge(measurement: Measurement, limits: Limits | None = None) -> Verdict:
    """The verdict on one measurement.

    A criterion is decided by where its whole interval lies, as in equivalence testing by two one-sided tests (TOST,
    Schuirmann 1987, doi 10.1007/BF01068419): what is not shown to be within its limit does not pass. Intervals are at
    95 %, so each test is at 2.5 %. To PASS, every criterion must, so that a wrong PASS stays as rare as one test's
    error however many criteria there are; of wrong FAILs there can be up to one error for each criterion.

    Args:
        measurement: what was measured.
        limits: what it must keep; the defaults of its precision if not given.

    Raises:
        ConfigurationError: a limit lies below the noise floor, so that the reference itself could fail it.
    """
    limits = limits or limits_for(measurement.precision, measurement.task)
    circuit = measurement.circuit
    if circuit is None:
        return Verdict(measurement, "INCONCLUSIVE", (), measurement.inconclusive or "nothing was measured")
    _require_above_noise(limits, measurement)
    criteria = tuple(
        _criterion(name, value, relation, getattr(limits, name), unit, measurement)
        for name, value, relation, unit in _values(circuit)
    )
    words = {criterion.verdict for criterion in criteria}
    word: Word = "FAIL" if "FAIL" in words else "INCONCLUSIVE" if "INCONCLUSIVE" in words else "PASS"
    return Verdict(measurement, word, criteria, broken=_broken(circuit, limits.profile_distance))


def _broken(circuit: Circuit, limit: float) -> tuple[Head, ...]:
    moved = ((head, magnitude(head.profile_change).low) for head in circuit.heads if head.rank_ref is not None)
    return tuple((head.layer, head.head) for head, low in moved if not math.isfinite(low) or low > limit)


def _values(circuit: Circuit) -> list[tuple[str, Estimate, Relation, str]]:
    values: list[tuple[str, Estimate, Relation, str]] = [
        ("behaviour_kept", circuit.behaviour_kept, ">=", "share of prompts"),
        ("metric_change", circuit.metric_change, "<=", "of the reference's logit difference"),
        ("drift_median", circuit.drift_median, "<=", "relative norm"),
        ("drift_largest", circuit.drift_largest, "<=", "relative norm"),
        ("ranking_agreement", circuit.ranking.agreement, ">=", "rank-biased overlap"),
        ("profile_distance", circuit.profile_distance, "<=", "of the largest importance"),
        ("unrepaired", circuit.repair.unrepaired, "<=", "of the reference's logit difference"),
    ]
    if circuit.repair.recovery is not None and _is_material(circuit):
        values.append(("recovery", circuit.repair.recovery, ">=", "share of the damage"))
    return values


def _is_material(circuit: Circuit) -> bool:
    """Whether the whole interval of the damage is beyond a share of the reference's metric.

    A share of little is no measure of much: 4-bit weights cost a few hundredths of the metric, partly outside the
    heads, and repairing all heads need not give half of that back. What repair leaves is held against a limit in any
    case.
    """
    damage = circuit.repair.damage
    least = 0.0 if damage.low <= 0 <= damage.high else min(abs(damage.low), abs(damage.high))
    return least > MATERIAL * abs(circuit.metric_ref.value)


def _criterion(
    name: str, value: Estimate, relation: Relation, limit: float, unit: str, measurement: Measurement
) -> Criterion:
    word = _word(value, relation, limit)
    return Criterion(
        name, value, relation, limit, unit, word, _message(name, value, relation, limit, word, measurement)
    )


def _word(value: Estimate, relation: Relation, limit: float) -> Word:
    if not all(math.isfinite(number) for number in (value.value, value.low, value.high)):
        return "FAIL"
    if relation == "<=":
        return "PASS" if value.high <= limit else "FAIL" if value.low > limit else "INCONCLUSIVE"
    return "PASS" if value.low >= limit else "FAIL" if value.high < limit else "INCONCLUSIVE"


def _message(name: str, value: Estimate, relation: Relation, limit: float, word: Word, measurement: Measurement) -> str:
    if word == "PASS":
        return ""
    if not math.isfinite(value.value + value.low + value.high):
        return f"{name} could not be measured: it is not finite"
    shown = f"{name} is {value.value:.4g} [{value.low:.4g}, {value.high:.4g}], must be {relation} {limit:g}"
    circuit = measurement.circuit
    if name == "ranking_agreement" and circuit is not None and circuit.ranking.ceiling < limit:
        shown += (
            f" (the reference's own halves agree by {circuit.ranking.ceiling:.4g} only: a limit above that asks for "
            "more than its prompts can tell)"
        )
    if word == "FAIL":
        return shown
    return f"{shown}: the interval contains the limit. {_what_would_settle_it(name, value, limit, measurement)}"


def _what_would_settle_it(name: str, value: Estimate, limit: float, measurement: Measurement) -> str:
    """What could have been seen, and what to type; an interval narrows with the square root of the prompts."""
    is_of_part = name in OF_THE_PART
    used = measurement.part if is_of_part else measurement.solved
    # Only the arm that reaches for the limit has to shrink.
    reach = value.high - value.value if value.value < limit else value.value - value.low
    distance = abs(value.value - limit)
    seen = (
        f"With {used} prompts from {measurement.clusters} templates the smallest distance from it that could have been "
        f"seen is {reach:.2g}"
    )
    if distance <= reach * 0.05:
        return f"{seen}; the value lies on the limit, so more prompts would hardly settle it."
    needed = math.ceil(used * (reach / distance) ** 2)
    way_out = _way_out(needed, measurement, is_of_part)
    return f"{seen}; about {needed}, in as many more templates, would settle it: {way_out}."


def _way_out(needed: int, measurement: Measurement, is_of_part: bool) -> str:
    prompts = max(measurement.prompts, math.ceil(needed * measurement.prompts / measurement.solved))
    options = [f"--circuit-prompts {prompts} (or a longer task file)"]
    if is_of_part:  # drift, gradients and repair use no more solved prompts than that
        options.insert(0, f"--circuit-part {needed}")
    return f"{' '.join(options)} with --circuit-against-base, or with baselines accepted under it"


def _require_above_noise(limits: Limits, measurement: Measurement) -> None:
    floor = measurement.noise_floor
    low = [
        f"{name} = {getattr(limits, name):g} is not above the noise floor {floor[noise]:.3g}"
        for name, noise in NOISE.items()
        if noise in floor and getattr(limits, name) <= floor[noise]
    ]
    ranking = 1 - floor.get("ranking_change", 0.0)
    if limits.ranking_agreement > ranking:
        low.append(f"ranking_agreement = {limits.ranking_agreement:g} is above the reference's own {ranking:.6g}")
    if low:
        raise ConfigurationError(
            f"limits for {measurement.precision} on task {measurement.task!r} cannot be judged, because the reference "
            f"differs from itself by as much: {'; '.join(low)}. Choose other limits."
        )
