"""One measure held against one limit: the word, and what a reader of a red build needs to know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import median

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.results import Circuit, Estimate, Judgement, Measurement, Relation, Word
from circuitcheck.verdict.criteria import Criterion
from circuitcheck.verdict.limits import Limits

WHERE = {"excess": "over all units", "excess_layer": "in layer {layer}", "excess_unit": "in {unit}"}
"""Criterion to where a candidate drifts further than rounding explains."""

HELD = 0.5
"""Units have moved little where the values of the median one have by less than this, relative."""

BEHIND = (
    "; it does not compute the reference's logits: with all units repaired they are still others, although those had "
    "moved little before (drift of z {drift:.2g} in median). Look beside and behind them: at MLPs, the final norm, the "
    "output layer, and how these are wired"
)


def hold(criterion: Criterion, value: Estimate, limit: float, measurement: Measurement) -> Judgement:
    """One criterion's value held against its limit.

    Args:
        criterion: what was asked.
        value: what was measured.
        limit: in the criterion's unit.
        measurement: what the value was read off.
    """
    word = word_of(value, criterion.relation, limit)
    message = "" if word == "PASS" else _message(criterion, value, limit, word, measurement)
    return Judgement(criterion.name, value, criterion.relation, limit, criterion.unit, word, message)


def worst(words: Iterable[Word]) -> Word:
    """What several words come to: FAIL if any is, else INCONCLUSIVE if any is, else PASS."""
    found = set(words)
    return "FAIL" if "FAIL" in found else "INCONCLUSIVE" if "INCONCLUSIVE" in found else "PASS"


def word_of(value: Estimate, relation: Relation, limit: float) -> Word:
    """PASS where the whole interval keeps the limit, FAIL where none of it does or anything is not finite."""
    if not _is_finite(value):
        return "FAIL"
    if relation == "<=":
        return "PASS" if value.high <= limit else "FAIL" if value.low > limit else "INCONCLUSIVE"
    return "PASS" if value.low >= limit else "FAIL" if value.high < limit else "INCONCLUSIVE"


def _is_finite(value: Estimate) -> bool:
    return math.isfinite(value.value + value.low + value.high)


def _message(criterion: Criterion, value: Estimate, limit: float, word: Word, measurement: Measurement) -> str:
    name, circuit = criterion.name, measurement.circuit
    if not _is_finite(value):
        return f"{name} could not be measured: it is not finite"
    shown = f"{name} is {value.value:.4g} [{value.low:.4g}, {value.high:.4g}], must be {criterion.relation} {limit:g}"
    if name == "ranking_agreement" and circuit is not None and circuit.ranking.ceiling < 1:
        shown += f" (a share of {circuit.ranking.ceiling:.4g}, by which the reference's own halves agree)"
    if word == "FAIL" and circuit is not None and circuit.excess is not None and name in WHERE:
        where = WHERE[name].format(layer=circuit.excess.worst_layer, unit=circuit.excess.worst_unit)
        shown += f"; not explained by {circuit.excess.precision} rounding: {value.value:.2g} times its drift {where}"
    if word == "FAIL":
        return shown + (_behind(circuit) if name == "unrepaired" and circuit is not None else "")
    settling = _what_would_settle_it(value, limit, measurement, of_part=criterion.of_part)
    return f"{shown}: the interval contains the limit. {settling}"


def _behind(circuit: Circuit) -> str:
    """Where the fault lies, if the units cannot have it."""
    drift = median(unit.drift_z for unit in circuit.units)
    return BEHIND.format(drift=drift) if drift < HELD else ""


def _what_would_settle_it(value: Estimate, limit: float, measurement: Measurement, *, of_part: bool) -> str:
    """What could have been seen, and what to type; an interval narrows with the square root of the prompts."""
    used = measurement.part if of_part else measurement.solved
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
    prompts = max(measurement.prompts, math.ceil(needed * measurement.prompts / measurement.solved))
    # Drift, gradients and repair use no more solved prompts than the part.
    part = f"--circuit-part {needed} " if of_part else ""
    return (
        f"{seen}; about {needed}, in as many more templates, would settle it: {part}--circuit-prompts {prompts} "
        "(or a longer task file) with --circuit-against-base, or with baselines accepted under it."
    )


def require_above_noise(criteria: Iterable[Criterion], limits: Limits, measurement: Measurement) -> None:
    """Refuses limits that the reference itself could miss.

    Raises:
        ConfigurationError: names all of them.
    """
    found = (_within_noise(one, limits[one.limit_name], measurement.noise_floor) for one in criteria)
    low = [fault for fault in found if fault]
    if low:
        raise ConfigurationError(
            f"limits for {measurement.precision} on task {measurement.task!r} cannot be judged, because the reference "
            f"differs from itself by as much: {'; '.join(low)}. Choose other limits."
        )


def _within_noise(criterion: Criterion, limit: float, floor: Mapping[str, float]) -> str:
    shown, noise = f"{criterion.limit_name} = {limit:g}", floor.get(criterion.noise or "")
    if criterion.relation == "<=":
        return f"{shown} is not above the noise floor {noise:.3g}" if noise is not None and limit <= noise else ""
    own = 1 - (noise or 0.0)
    return f"{shown} is above the reference's own {own:.6g}" if criterion.noise and limit > own else ""
