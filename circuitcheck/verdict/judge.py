"""Holds a measurement against its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from circuitcheck.errors import ConfigurationError
from circuitcheck.measurement.data import Circuit, Measurement
from circuitcheck.measures.estimate import Estimate
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
    """

    measurement: Measurement
    word: Word
    criteria: tuple[Criterion, ...]
    message: str = ""


NOISE: dict[str, str] = {
    "drift_median": "drift",
    "drift_largest": "drift",
    "metric_change": "metric_change",
    "profile_distance": "profile_distance",
    "unrepaired": "metric_change",
}
"""Criterion to the noise that its limit must exceed."""

OF_THE_PART = ("drift_median", "drift_largest", "unrepaired", "recovery")
"""Criteria that are measured on the part of the solved prompts that baselines keep z of."""


def judge(measurement: Measurement, limits: Limits | None = None) -> Verdict:
    """The verdict on one measurement.

    A criterion is decided by where its whole interval lies, as in equivalence testing (Schuirmann 1987,
    doi 10.1007/BF01068419): what is not shown to be within its limit does not pass.

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
    return Verdict(measurement, word, criteria)


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
    if circuit.repair.recovery is not None:
        values.append(("recovery", circuit.repair.recovery, ">=", "share of the damage"))
    return values


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
    shown = f"{name} is {value.value:.4g} [{value.low:.4g}, {value.high:.4g}], must be {relation} {limit:g}"
    if word == "INCONCLUSIVE":
        return f"{shown}: the interval contains the limit. {_what_would_settle_it(name, value, limit, measurement)}"
    if not math.isfinite(value.value + value.low + value.high):
        return f"{name} could not be measured: it is not finite"
    return shown


def _what_would_settle_it(name: str, value: Estimate, limit: float, measurement: Measurement) -> str:
    """An interval narrows with the square root of the number of prompts."""
    used = measurement.part if name in OF_THE_PART else measurement.solved
    reach = max(abs(value.high - value.value), abs(value.value - value.low))
    distance = abs(value.value - limit)
    seen = f"With {used} prompts a distance of {reach:.2g} from the limit could have been seen"
    if distance <= reach * 0.05:
        return f"{seen}; the value lies on the limit, so more prompts would hardly settle it."
    prompts = math.ceil(used * (reach / distance) ** 2)
    return f"{seen}; about {prompts} prompts would settle it."


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
