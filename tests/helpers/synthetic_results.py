"""Measurements and their circuits made of given numbers: no model runs, and no baseline is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitcheck.core.results import (
    UNKNOWN,
    Association,
    Basis,
    BoundAudit,
    Circuit,
    Estimate,
    Excess,
    Measurement,
    PerPrompt,
    Ranking,
    Repair,
    UnitMeasure,
    Verdict,
)
from circuitcheck.gate.judge import judge
from circuitcheck.verdict.limits import Limits

KINDS = ("resample", "mean", "zero")
DRIFT_LIMITS = {"drift_median": 0.2, "drift_largest": 0.8}
LARGEST = 4.0
"""The largest importance in a circuit of these, in logits, against which changes count."""


def exactly(value: float) -> Estimate:
    """An estimate without width."""
    return Estimate(value, value, value)


def make_head(
    layer: int = 0, head: int = 0, reference: float = 1.0, candidate: float = 1.0, **changes: Any
) -> UnitMeasure:
    """One head with its importances; everything else about it is quiet."""
    known = UnitMeasure(
        unit=f"{layer}.{head}",
        layer=layer,
        column=head,
        importance_ref=exactly(reference),
        importance_cand=exactly(candidate),
        importance_change=exactly(candidate - reference),
        profile_change=UNKNOWN,
        rank_ref=1,
        rank_cand=1,
        drift=0.01,
        move=0.02,
        drift_z=0.01,
        drift_answer=0.01,
        cosine=1.0,
        cosine_answer=1.0,
        fragility=0.0,
        repair_gain=0.0,
    )
    head = replace(known, **changes)
    change = head.importance_change
    relative = Estimate(change.value / LARGEST, change.low / LARGEST, change.high / LARGEST)
    return replace(head, **{"profile_change": relative} | changes)


def make_basis(**changes: Any) -> Basis:
    """That of a candidate which keeps its units as the reference does."""
    known = Basis(
        source="unembedding",
        tokens=64,
        changed=(),
        largest_drift_z=0.0,
        largest_drift=0.0,
        renumbered={},
        unread=0.001,
    )
    return replace(known, **changes)


def make_excess(**changes: Any) -> Excess:
    """That of a candidate which drifts as plain rounding to 8 bits does."""
    known = Excess(
        precision="8-bit",
        pooled=Estimate(0.8, 0.7, 0.9),
        layer=Estimate(0.9, 0.8, 1.0),
        unit=Estimate(1.1, 0.9, 1.3),
        layers=(0.9,),
        units=(0.7, 1.1),
        worst_unit="0.1",
    )
    return replace(known, **changes)


def make_circuit(**changes: Any) -> Circuit:
    """A circuit that passes every default limit of an unknown precision, with room."""
    known = Circuit(
        kl_divergence=Estimate(0.001, 0.0005, 0.002),
        changed_answers=Estimate(0.0, 0.0, 0.05),
        behaviour_kept=Estimate(1.0, 0.95, 1.0),
        metric_change=Estimate(0.01, 0.0, 0.02),
        metric_ref=exactly(4.0),
        metric_cand=exactly(4.0),
        drift=Estimate(0.01, 0.005, 0.015),
        drift_median=Estimate(0.01, 0.005, 0.015),
        drift_largest=Estimate(0.02, 0.01, 0.03),
        excess=None,
        profile_distance=Estimate(0.01, 0.0, 0.02),
        ranking=Ranking(Estimate(0.99, 0.98, 1.0), ceiling=1.0, ranked=9, reversed=0.2, top_5=1.0, kendall_tau_b=0.9),
        repair=Repair(
            damage=exactly(0.0),
            unrepaired=Estimate(0.01, 0.0, 0.02),
            recovery=None,
            diagnosis="no damage",
        ),
        bound=BoundAudit(
            0.1,
            0.1,
            0.5,
            coverage=1.0,
            looseness=5.0,
            violated=False,
            relative_error=0.0,
            per_prompt=PerPrompt((0.1,), (0.1,), (0.5,)),
        ),
        associations={kind: Association(exactly(0.1), exactly(0.2), 0.3, 0.4) for kind in KINDS},
        basis=make_basis(),
        units=(make_head(0, 0, LARGEST, LARGEST), make_head(0, 1, 1.0, 1.0)),
    )
    return replace(known, **changes)


def make_measurement(circuit: Circuit | None = None, **changes: Any) -> Measurement:
    """A measurement of that circuit on 64 prompts, 32 of which drift and repair use."""
    known = Measurement(
        model="made-up",
        candidate="candidate",
        precision="unheard-of",
        task="synthetic",
        unit="head",
        metric="logit_difference",
        prompts=64,
        solved=64,
        part=32,
        clusters=8,
        inconclusive=None,
        circuit=circuit or make_circuit(),
        noise_floor={"drift": 1e-7, "metric_change": 1e-7, "profile_distance": 1e-7, "ranking_change": 0.0},
        fingerprints={"weights": "a" * 64, "tokenizer": "b" * 64, "prompts": "c" * 64, "spec": "d" * 64},
    )
    return replace(known, **changes)


def make_verdict(measurement: Measurement | None = None, **limits: float) -> Verdict:
    """The measurement against the default limits; those on drift depend on the precision, and here there is none."""
    return judge(measurement or make_measurement(), Limits(**DRIFT_LIMITS | limits))
