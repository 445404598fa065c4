"""Holds a measurement against its limits."""

from __future__ import annotations

import math

from circuitcheck.core.results import Circuit, Measurement, Verdict
from circuitcheck.stats.estimate import magnitude
from circuitcheck.verdict.criteria import criteria_for
from circuitcheck.verdict.judgement import hold, require_above_noise, worst
from circuitcheck.verdict.limits import Limits, limits_for


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
        ConfigurationError: a limit lies below the noise floor, so that the reference itself could fail it; or no limits
            are given, and there are none for the candidate's precision.
    """
    limits = limits or limits_for(measurement.precision, measurement.task)
    circuit, criteria = measurement.circuit, criteria_for(measurement.metric)
    if circuit is None:
        return Verdict(measurement, "INCONCLUSIVE", (), measurement.inconclusive or "nothing was measured")
    require_above_noise(criteria, limits, measurement)
    measured = [(criterion, criterion.read(circuit)) for criterion in criteria]
    judgements = tuple(
        hold(criterion, value, limits[criterion.limit_name], measurement)
        for criterion, value in measured
        if value is not None
    )
    word = worst(judgement.verdict for judgement in judgements)
    return Verdict(measurement, word, judgements, broken=_broken(circuit, limits.profile_distance))


def _broken(circuit: Circuit, limit: float) -> tuple[str, ...]:
    moved = ((unit.unit, magnitude(unit.profile_change).low) for unit in circuit.units if unit.rank_ref is not None)
    return tuple(unit for unit, low in moved if not math.isfinite(low) or low > limit)
