"""Circuits and measurements made of given numbers: no baseline, no model, no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitcheck.core.results import (
    UNKNOWN,
    Association,
    BoundAudit,
    Circuit,
    Estimate,
    Measurement,
    PerPrompt,
    Ranking,
    Repair,
    UnitMeasure,
)


def exactly(value: float) -> Estimate:
    """An estimate without width."""
    return Estimate(value, value, value)


def made_unit(layer: int = 0, column: int = 0, reference: float = 1.0, candidate: float = 1.0, **changes: Any):
    """One head with its importances; everything else about it is quiet."""
    known = UnitMeasure(
        unit=f"{layer}.{column}",
        layer=layer,
        column=column,
        importance_ref=exactly(reference),
        importance_cand=exactly(candidate),
        importance_change=exactly(candidate - reference),
        rank_ref=1,
        rank_cand=1,
        drift=0.01,
        drift_answer=0.01,
        cosine=1.0,
        cosine_answer=1.0,
        fragility=0.0,
        repair_gain=0.0,
    )
    return replace(known, **changes)


def left_out(layer: int, column: int) -> UnitMeasure:
    """One head that a screened sweep left out."""
    unknown = dict.fromkeys(("importance_ref", "importance_cand", "importance_change"), UNKNOWN)
    return made_unit(layer, column, rank_ref=None, rank_cand=None, **unknown)


def made_circuit(**changes: Any) -> Circuit:
    """A circuit that passes every default limit of 8 bits, with room."""
    known = Circuit(
        behaviour_kept=Estimate(1.0, 0.95, 1.0),
        metric_change=Estimate(0.01, 0.0, 0.02),
        metric_ref=exactly(4.0),
        metric_cand=exactly(4.0),
        drift_median=Estimate(0.01, 0.005, 0.015),
        drift_largest=Estimate(0.02, 0.01, 0.03),
        profile_distance=Estimate(0.01, 0.0, 0.02),
        ranking=Ranking(Estimate(0.99, 0.98, 1.0), ceiling=0.97, top_5=1.0, kendall_tau_b=0.9),
        repair=Repair("no damage", damage=exactly(0.0), recovery=None, unrepaired=Estimate(0.01, 0.0, 0.02)),
        bound=BoundAudit(
            degradation=0.1,
            estimate=0.1,
            bound=0.5,
            coverage=1.0,
            looseness=5.0,
            violated=False,
            relative_error=0.0,
            per_prompt=PerPrompt((0.1,), (0.1,), (0.5,)),
        ),
        associations={"resample": Association(exactly(0.1), exactly(0.2), 0.3, 0.4)},
        units=(made_unit(0, 0, 4.0, 4.0), made_unit(0, 1, 1.0, 1.0)),
    )
    return replace(known, **changes)


def circuit_with(name: str, value: Estimate) -> Circuit:
    """A circuit without fault but for one criterion's value."""
    circuit = made_circuit()
    if name == "ranking_agreement":
        return replace(circuit, ranking=replace(circuit.ranking, agreement=value))
    if name == "recovery":
        return replace(circuit, repair=replace(circuit.repair, recovery=value, damage=exactly(2.0)))
    if name == "unrepaired":
        return replace(circuit, repair=replace(circuit.repair, unrepaired=value))
    return replace(circuit, **{name: value})


def made_measurement(circuit: Circuit | None = None, **changes: Any) -> Measurement:
    """A measurement of that circuit on 64 prompts, 32 of which drift and repair use."""
    known = Measurement(
        model="made-up",
        candidate="candidate",
        precision="8-bit",
        task="synthetic",
        unit="head",
        metric="logit_difference",
        prompts=64,
        solved=64,
        part=32,
        clusters=8,
        inconclusive=None,
        circuit=circuit or made_circuit(),
        noise_floor={"drift": 1e-7, "metric_change": 1e-7, "profile_distance": 1e-7, "ranking_change": 0.0},
        fingerprints={"weights": "a" * 64, "tokenizer": "b" * 64, "prompts": "c" * 64, "spec": "d" * 64},
    )
    return replace(known, **changes)
