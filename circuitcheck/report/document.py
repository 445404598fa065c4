"""The report as plain data: what `report.json` holds, what workers hand over, and what every rendering reads.

The schema is documented in docs/report.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from circuitcheck.core.census import Census
from circuitcheck.core.results import Circuit, CurvePoint, HeadMeasure, Repair
from circuitcheck.diagnostics.association import Association
from circuitcheck.diagnostics.keep_list import KeepList
from circuitcheck.gate.judge import Criterion, Verdict
from circuitcheck.report.compare import compare
from circuitcheck.report.fields import SCHEMA, Entry
from circuitcheck.runtimes.pytorch.ports.structure import Head
from circuitcheck.stats.estimate import Estimate
from circuitcheck.stats.first_order import BoundAudit


def document(
    entries: Iterable[Entry],
    environment: Mapping[str, Any],
    expected: int | None = None,
    command: str = "",
    old: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole report.

    Args:
        entries: one a candidate and task.
        environment: versions and instruction set.
        expected: how many entries a complete run would have; as many as there are, if not given.
        command: what reproduces the run; empty where it was no command.
        old: an earlier report to compare with.
    """
    runs = list(entries)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "command": command,
        "environment": dict(environment),
        "complete": expected is None or len(runs) == expected,
        "expected_runs": len(runs) if expected is None else expected,
        "runs": runs,
    }
    return content | {"compare": None if old is None else compare(old, content)}


def run_entry(verdict: Verdict) -> Entry:
    """One judged (candidate, task)."""
    measurement = verdict.measurement
    entry = _empty(measurement.model, measurement.candidate, measurement.task) | {
        "precision": measurement.precision,
        "verdict": verdict.word,
        "message": verdict.message,
        "prompts": measurement.prompts,
        "solved": measurement.solved,
        "part": measurement.part,
        "clusters": measurement.clusters,
        "criteria": [_criterion(criterion) for criterion in verdict.criteria],
        "census": None if measurement.census is None else _census(measurement.census),
        "batch_size": measurement.batch_size,
        "noise_floor": measurement.noise_floor,
        "fingerprints": measurement.fingerprints,
        "notes": list(measurement.notes),
    }
    if measurement.circuit is not None:
        entry |= _circuit(measurement.circuit, verdict.broken)
    return entry


def failed_entry(model: str, candidate: str, task: str, message: str) -> Entry:
    """A (candidate, task) that could not be measured or judged: a failure, with its reason."""
    return _empty(model, candidate, task) | {"verdict": "FAIL", "message": message}


def keep_entry(keep: KeepList) -> Entry:
    """What stands under `keep` of a candidate that one was searched for."""
    return {
        "modules": list(keep.modules),
        "verdict": keep.verdict,
        "measured": keep.measured,
        "torchao": keep.torchao,
        "compressed_tensors": keep.compressed_tensors,
        "bitsandbytes": keep.bitsandbytes,
        "message": "",
    }


def failed_keep_entry(message: str) -> Entry:
    """What stands there where none can be found, with its reason."""
    unknown = dict.fromkeys(("torchao", "compressed_tensors", "bitsandbytes"), "")
    return {"modules": [], "verdict": "FAIL", "measured": 0, **unknown, "message": message}


def _empty(model: str, candidate: str, task: str) -> Entry:
    """All keys that every entry has, with nothing in them."""
    return {
        "model": model,
        "candidate": candidate,
        "precision": None,
        "task": task,
        "unit": "head",
        "verdict": "FAIL",
        "message": "",
        "prompts": None,
        "solved": None,
        "part": None,
        "clusters": None,
        "criteria": [],
        "heads": [],
        "repair": None,
        "bound": None,
        "ranking": None,
        "associations": None,
        "metric_ref": None,
        "metric_cand": None,
        "census": None,
        "batch_size": None,
        "noise_floor": {},
        "noise": None,
        "multiverse": None,
        "keep": None,
        "fingerprints": {},
        "notes": [],
    }


def _circuit(circuit: Circuit, broken: tuple[Head, ...]) -> Entry:
    ranking = circuit.ranking
    return {
        "metric_ref": _estimate(circuit.metric_ref),
        "metric_cand": _estimate(circuit.metric_cand),
        "heads": [_head(head, (head.layer, head.head) in broken) for head in circuit.heads],
        "repair": _repair(circuit.repair),
        "bound": _bound(circuit.bound),
        "ranking": {
            "agreement": _estimate(ranking.agreement),
            "ceiling": _number(ranking.ceiling),
            "top_5": _number(ranking.top_k),
            "kendall_tau_b": _number(ranking.kendall),
        },
        "associations": {kind: _association(found) for kind, found in circuit.associations.items()},
    }


def _association(association: Association) -> Entry:
    return {
        "raw": _estimate(association.raw),
        "within_layers": _estimate(association.within),
        "p_within_layers": _number(association.p_within),
        "between_layers_share": _number(association.between_share),
    }


def _bound(bound: BoundAudit) -> Entry:
    integrated = bound.integrated
    return {
        "degradation": _number(bound.degradation),
        "estimate": _number(bound.estimate),
        "bound": _number(bound.bound),
        "coverage": _number(bound.coverage),
        "looseness": _number(bound.looseness),
        "violated": bool(bound.violated),
        "relative_error": _number(bound.relative_error),
        "per_prompt": {
            "degradation": [_number(value) for value in bound.per_prompt.degradation],
            "estimate": [_number(value) for value in bound.per_prompt.estimate],
            "bound": [_number(value) for value in bound.per_prompt.bound],
        },
        "integrated": None
        if integrated is None
        else {"estimate": _number(integrated.estimate), "relative_error": _number(integrated.relative_error)},
    }


def _census(census: Census) -> Entry:
    return {
        "claim": census.claim,
        "bits": None if census.bits is None else _number(census.bits),
        "projections": census.projections,
        "quantized": census.quantized,
        "before": [asdict(kind) for kind in census.before],
        "after": [asdict(kind) for kind in census.after],
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


def _head(head: HeadMeasure, is_broken: bool) -> Entry:
    return {
        "layer": head.layer,
        "head": head.head,
        "importance_ref": _number(head.importance_ref.value),
        "importance_ref_interval": _interval(head.importance_ref),
        "importance_ref_by_kind": {kind: _number(found.value) for kind, found in head.importance_ref_by_kind.items()},
        "importance_ref_by_kind_interval": {
            kind: _interval(found) for kind, found in head.importance_ref_by_kind.items()
        },
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
        "broken": is_broken,
    }


def _repair(repair: Repair) -> Entry:
    return {
        "diagnosis": repair.diagnosis,
        "damage": _estimate(repair.damage),
        "recovery": None if repair.recovery is None else _estimate(repair.recovery),
        "unrepaired": _estimate(repair.unrepaired),
        "curves": {order: _curve(points) for order, points in repair.curves.items()},
        "random": _curve(repair.random),
        "areas": {
            order: {
                "value": _number(area.value),
                "relative_to_random": _number(area.over_random.value),
                "interval": _interval(area.over_random),
            }
            for order, area in repair.areas.items()
        },
    }


def _curve(points: Sequence[CurvePoint]) -> list[Entry]:
    return [
        {"k": point.k, "recovery": _number(point.recovery.value), "interval": _interval(point.recovery)}
        for point in points
    ]


def _estimate(value: Estimate) -> Entry:
    return {"value": _number(value.value), "interval": _interval(value)}


def _interval(value: Estimate) -> list[float | None]:
    return [_number(value.low), _number(value.high)]


def _number(value: float) -> float | None:
    """Six significant digits; None for what is undefined, because JSON has no NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
