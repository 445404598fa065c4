"""What rounding alone does to a reference, measured like a candidate when its baseline is recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.rounded import MEASURES, Rounded
from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.core.results import Circuit
from circuitcheck.core.runtime import Rounding, Work
from circuitcheck.gate.decide import looks
from circuitcheck.gate.measure import made_ready, observe
from circuitcheck.gate.summarize import summarize
from circuitcheck.gate.survival import with_survivors


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
    # All of the part, which a later look may need.
    looked_at = baseline.first(max(looks(len(baseline.task.pairs))[0], baseline.z.index[-1] + 1))
    known, notes, survivors = [], [], []
    for one in roundings:
        try:
            rounded = made_ready(one.make(), baseline)
            observed = observe(rounded, looked_at, work.beside(rounding=f"{one.precision}: {one.name}"), curves=False)
        except CircuitcheckError as error:
            notes.append(f"Not known is what {one.precision} does to this model ({one.name}): {error}")
            continue
        circuit = summarize(looked_at, observed, one.precision)
        measures = _measures(circuit)
        squares, layers = observed.written.sums.difference.astype(np.float32), None
        if baseline.population is not None and observed.population is not None:
            layers = observed.population.layers(baseline.population.layout).difference.astype(np.float32)
        survivors += [] if circuit.features is None else [circuit.features.surviving.value]
        known.append(Rounded(one.precision, one.name, measures, squares, layers))
    features = with_survivors(baseline, survivors)
    return replace(baseline, roundings=tuple(known), features=features, notes=(*baseline.notes, *notes))


def _measures(circuit: Circuit) -> dict[str, float]:
    found = {
        **{name: getattr(circuit, name, None) for name in MEASURES},
        "ranking_agreement": circuit.ranking.agreement,
        "unrepaired": circuit.repair.unrepaired,
    }
    known = {name: one.value for name, one in found.items() if one is not None and math.isfinite(one.value)}
    # As they are kept, so that a reference that did not change is the same as what was loaded of it.
    return {name: float(np.float32(value)) for name, value in known.items()}
