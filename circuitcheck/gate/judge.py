"""Holds a measurement against its limits."""

from __future__ import annotations

import math

from circuitcheck.core.results import Circuit, Measurement, Verdict
from circuitcheck.stats.estimate import magnitude
from circuitcheck.verdict.criteria import Criterion, criteria_for
from circuitcheck.verdict.judgement import hold, require_above_noise, worst
from circuitcheck.verdict.limits import Limits, limits_for, loosened


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
    judgements, untold = [], []
    for criterion in criteria:
        value, limit = criterion.read(circuit), limits[criterion.limit_name] * criterion.share_of(circuit)
        if value is None or _is_known_better(criterion, circuit, limits):
            continue
        if why := criterion.cannot_tell(circuit, limit):
            untold.append(why)
        else:
            judgements.append(hold(criterion, value, limit, measurement))
    word = worst(judgement.verdict for judgement in judgements)
    return Verdict(
        measurement,
        word,
        tuple(judgements),
        broken=_broken(circuit, limits.profile_distance),
        untold=tuple(untold),
        loosened=loosened(limits, measurement.precision, measurement.metric),
    )


def _is_known_better(criterion: Criterion, circuit: Circuit, limits: Limits) -> bool:
    """Limits by precision are those of other models: where it is known what rounding does to this one, that counts.

    A limit that somebody named is held in any case.
    """
    return criterion.limit is None and circuit.excess is not None and criterion.name not in limits.named


def _broken(circuit: Circuit, limit: float) -> tuple[str, ...]:
    moved = ((unit.unit, magnitude(unit.profile_change).low) for unit in circuit.units if unit.rank_ref is not None)
    return tuple(unit for unit, low in moved if not math.isfinite(low) or low > limit)
