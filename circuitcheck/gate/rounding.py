"""What rounding alone does to a reference, measured like a candidate when its baseline is recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.rounded import MEASURES, Rounded
from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.core.results import Circuit
from circuitcheck.core.runtime import Rounding, Work
from circuitcheck.gate.decide import looks
from circuitcheck.gate.measure import measure


def with_roundings(baseline: Baseline, roundings: Iterable[Rounding], work: Work) -> Baseline:
    """The baseline with what each rounding did to its reference.

    A copy of the model is made for each and let go again, and measured on as many prompts as a gate looks at first. A
    rounding that cannot be made of this model, or whose numbers overflow, is named in the notes: limits of other models
    hold for its precision then.

    Args:
        baseline: what was recorded of the reference.
        roundings: ways to round it.
        work: budget, progress and notes.
    """
    if baseline.incompetence is not None:
        return baseline
    known, notes, prompts = [], [], looks(len(baseline.task.pairs))[0]
    options: dict[str, Any] = {"advance": work.advance, "memory": work.memory}
    for one in roundings:
        try:
            measurement = measure(one.make(), baseline, prompts=prompts, curves=False, **options)
        except CircuitcheckError as error:
            notes.append(f"Not known is what {one.precision} does to this model ({one.name}): {error}")
            continue
        assert measurement.circuit is not None
        moves = np.array([unit.move for unit in measurement.circuit.units], np.float32)
        known.append(Rounded(one.precision, one.name, _measures(measurement.circuit), moves))
    return replace(baseline, roundings=tuple(known), notes=(*baseline.notes, *notes))


def _measures(circuit: Circuit) -> dict[str, float]:
    found = {
        **{name: getattr(circuit, name, None) for name in MEASURES},
        "ranking_agreement": circuit.ranking.agreement,
        "unrepaired": circuit.repair.unrepaired,
    }
    return {name: one.value for name, one in found.items() if one is not None and math.isfinite(one.value)}
