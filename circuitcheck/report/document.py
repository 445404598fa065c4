"""The report as plain data: what `report.json` holds, what workers hand over, and what every rendering reads.

The schema is documented in docs/report.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from circuitcheck.measurement.data import Circuit, HeadMeasure, Repair
from circuitcheck.measures.estimate import Estimate
from circuitcheck.report.fields import SCHEMA, Entry
from circuitcheck.verdict.judge import Criterion, Verdict


def document(entries: Iterable[Entry], environment: Mapping[str, Any], expected: int | None = None) -> dict[str, Any]:
    """The whole report.

    Args:
        entries: one a candidate and task.
        environment: versions and instruction set.
        expected: how many entries a complete run would have; as many as there are, if not given.
    """
    runs = list(entries)
    return {
        "schema": SCHEMA,
        "environment": dict(environment),
        "complete": expected is None or len(runs) == expected,
        "expected_runs": len(runs) if expected is None else expected,
        "runs": runs,
    }


def run_entry(verdict: Verdict) -> Entry:
    """One judged (candidate, task)."""
    measurement = verdict.measurement
    entry: Entry = {
        "model": measurement.model,
        "candidate": measurement.candidate,
        "precision": measurement.precision,
        "task": measurement.task,
        "verdict": verdict.word,
        "message": verdict.message,
        "prompts": measurement.prompts,
        "solved": measurement.solved,
        "part": measurement.part,
        "clusters": measurement.clusters,
        "criteria": [_criterion(criterion) for criterion in verdict.criteria],
        "heads": [],
        "repair": None,
        "bound": None,
        "ranking": None,
        "association": None,
        "metric_ref": None,
        "metric_cand": None,
        "noise_floor": measurement.noise_floor,
        "notes": list(measurement.notes),
    }
    if measurement.circuit is not None:
        entry |= _circuit(measurement.circuit)
    return entry


def failed_entry(model: str, candidate: str, task: str, message: str) -> Entry:
    """A (candidate, task) that could not be measured or judged: a failure, with its reason."""
    return {
        "model": model,
        "candidate": candidate,
        "precision": None,
        "task": task,
        "verdict": "FAIL",
        "message": message,
        "prompts": None,
        "solved": None,
        "part": None,
        "clusters": None,
        "criteria": [],
        "heads": [],
        "repair": None,
        "bound": None,
        "ranking": None,
        "association": None,
        "metric_ref": None,
        "metric_cand": None,
        "noise_floor": {},
        "notes": [],
    }


def _circuit(circuit: Circuit) -> Entry:
    ranking, bound, association = circuit.ranking, circuit.bound, circuit.association
    return {
        "metric_ref": _estimate(circuit.metric_ref),
        "metric_cand": _estimate(circuit.metric_cand),
        "heads": [_head(head) for head in circuit.heads],
        "repair": _repair(circuit.repair),
        "bound": {
            "degradation": _number(bound.degradation),
            "estimate": _number(bound.estimate),
            "bound": _number(bound.bound),
            "coverage": _number(bound.coverage),
            "looseness": _number(bound.looseness),
            "violated": bool(bound.violated),
        },
        "ranking": {
            "agreement": _estimate(ranking.agreement),
            "ceiling": _number(ranking.ceiling),
            "top_5": _number(ranking.top_k),
            "kendall_tau_b": _number(ranking.kendall),
        },
        "association": {
            "raw": _estimate(association.raw),
            "within_layers": _estimate(association.within),
            "p_within_layers": _number(association.p_within),
            "between_layers_share": _number(association.between_share),
        },
    }


def _criterion(criterion: Criterion) -> Entry:
    return {
        "name": criterion.name,
        "value": _number(criterion.value.value),
        "limit": _number(criterion.limit),
        "relation": criterion.relation,
        "interval": [_number(criterion.value.low), _number(criterion.value.high)],
        "unit": criterion.unit,
        "verdict": criterion.verdict,
        "message": criterion.message,
    }


def _head(head: HeadMeasure) -> Entry:
    return {
        "layer": head.layer,
        "head": head.head,
        "importance_ref": _number(head.importance_ref.value),
        "importance_ref_interval": _interval(head.importance_ref),
        "importance_cand": _number(head.importance_cand.value),
        "importance_cand_interval": _interval(head.importance_cand),
        "importance_change": _number(head.importance_change.value),
        "importance_change_interval": _interval(head.importance_change),
        "rank_ref": head.rank_ref,
        "rank_cand": head.rank_cand,
        "drift": _number(head.drift),
        "drift_answer": _number(head.drift_answer),
        "cosine": _number(head.cosine),
        "cosine_answer": _number(head.cosine_answer),
        "fragility": _number(head.fragility),
        "repair_gain": _number(head.repair_gain),
    }


def _repair(repair: Repair) -> Entry:
    return {
        "diagnosis": repair.diagnosis,
        "damage": _estimate(repair.damage),
        "recovery": None if repair.recovery is None else _estimate(repair.recovery),
        "unrepaired": _estimate(repair.unrepaired),
        "curves": {
            order: [
                {"k": point.k, "recovery": _number(point.recovery.value), "interval": _interval(point.recovery)}
                for point in points
            ]
            for order, points in repair.curves.items()
        },
    }


def _estimate(value: Estimate) -> Entry:
    return {"value": _number(value.value), "interval": _interval(value)}


def _interval(value: Estimate) -> list[float | None]:
    return [_number(value.low), _number(value.high)]


def _number(value: float) -> float | None:
    """Six significant digits; None for what is undefined, because JSON has no NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
