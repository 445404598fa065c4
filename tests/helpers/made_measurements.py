"""Measurements of circuits without fault but for one value, as of a candidate of 8 bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from synthetic_results import exactly, make_circuit, make_excess, make_head, make_measurement

from circuitcheck.core.results import UNKNOWN, Circuit, Estimate, Measurement, UnitMeasure

__all__ = ["circuit_with", "exactly", "left_out", "made_circuit", "made_measurement", "made_unit"]

EXCESS = {"excess": "pooled", "excess_layer": "layer", "excess_unit": "unit"}
"""Criterion to the field of `Excess` that it reads."""

made_unit, made_circuit = make_head, make_circuit


def left_out(layer: int, column: int) -> UnitMeasure:
    """One head that a screened sweep left out."""
    unknown = dict.fromkeys(("importance_ref", "importance_cand", "importance_change", "profile_change"), UNKNOWN)
    return made_unit(layer, column, rank_ref=None, rank_cand=None, **unknown)


def circuit_with(name: str, value: Estimate) -> Circuit:
    """A circuit without fault but for one criterion's value."""
    circuit = made_circuit()
    if name == "ranking_agreement":
        return replace(circuit, ranking=replace(circuit.ranking, agreement=value))
    if name == "recovery":
        return replace(circuit, repair=replace(circuit.repair, recovery=value, damage=exactly(2.0)))
    if name in EXCESS:
        return replace(circuit, excess=make_excess(**{EXCESS[name]: value}))
    if name == "unrepaired":
        return replace(circuit, repair=replace(circuit.repair, unrepaired=value))
    return replace(circuit, **{name: value})


def made_measurement(circuit: Circuit | None = None, **changes: Any) -> Measurement:
    """A measurement of that circuit on 64 prompts, 32 of which drift and repair use."""
    return make_measurement(circuit, **({"precision": "8-bit"} | changes))
