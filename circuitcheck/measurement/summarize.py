"""From what a reference and a candidate did to the measures and their intervals. No model runs here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.measurement.data import Circuit, CurvePoint, HeadMeasure, Ranking, Repair
from circuitcheck.measurement.observe import Observation
from circuitcheck.measures.bootstrap import cluster_weights, mean_estimate, share_estimate, weighted_means
from circuitcheck.measures.correlation import associate
from circuitcheck.measures.damage import audit, first_order, fragility
from circuitcheck.measures.drift import DriftSums, cosine, drift_draws, drift_sums, relative_drift
from circuitcheck.measures.estimate import Estimate, estimate
from circuitcheck.measures.profile import profile_distance, profile_distance_draws
from circuitcheck.measures.ranking import (
    kendall_tau_b,
    rank_biased_overlap,
    rank_biased_overlap_draws,
    ranks,
    top_k_overlap,
)
from circuitcheck.measures.recovery import diagnose, recovery
from circuitcheck.sites.structure import Head

Array = NDArray[Any]
UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))
UNMEASURED: dict[str, Any] = {
    "importance_ref": UNKNOWN,
    "importance_cand": UNKNOWN,
    "importance_change": UNKNOWN,
    "rank_ref": None,
    "rank_cand": None,
}
"""What is known of the importance of a head that a screened sweep left out."""

DAMAGE_ORDERS = ("importance", "drift", "importance x drift")
"""Orders that look at the damage; the others are controls."""


@dataclass(frozen=True)
class Importances:
    """Importances of both sides of the measured heads, on the same prompts and the same bootstrap draws.

    Attributes:
        reference: in logits, `[measured]`.
        candidate: in logits, `[measured]`.
        reference_draws: `[draws, measured]`.
        candidate_draws: `[draws, measured]`.
    """

    reference: Array
    candidate: Array
    reference_draws: Array
    candidate_draws: Array


def summarize(baseline: Recording, observed: Observation) -> Circuit:
    """All measures of one candidate, each with an interval from the same clustered, paired bootstrap."""
    spec = baseline.spec
    weights = cluster_weights(baseline.solved_clusters, spec.draws, spec.seed)
    part_clusters = [baseline.task.pairs[place].cluster for place in baseline.z.index]
    part_weights = cluster_weights(part_clusters, spec.draws, spec.seed)
    # Means of float32 are float32: without this a candidate that equals the reference would differ from it.
    metric_ref = baseline.metric[list(baseline.solved)].astype(np.float64)
    metric_cand = observed.metric.astype(np.float64)
    importances = _importances(baseline, observed, weights)
    sums = drift_sums(baseline.z, observed.z)
    drift, moved = relative_drift(sums), drift_draws(sums, part_weights)
    damage = first_order(baseline.gradient, baseline.z, observed.z)
    part_ref, part_cand = _part(baseline, metric_ref), _part(baseline, metric_cand)
    # Drift is known of the part alone, so its draws are paired with importances of the part.
    part_draws = weighted_means(part_weights, _part(baseline, baseline.effects(spec.ablation)))
    measured = [place for place, head in enumerate(baseline.heads) if head in set(baseline.measured)]
    layers = np.array([layer for layer, _ in baseline.measured])
    return Circuit(
        behaviour_kept=share_estimate(metric_cand > 0, weights),
        metric_change=_metric_change(metric_ref, metric_cand, weights),
        metric_ref=mean_estimate(metric_ref, weights),
        metric_cand=mean_estimate(metric_cand, weights),
        drift_median=estimate(float(np.median(drift)), np.median(moved, axis=1)),
        drift_largest=estimate(float(drift.max()), moved.max(axis=1)),
        profile_distance=estimate(
            profile_distance(importances.reference, importances.candidate),
            profile_distance_draws(importances.reference_draws, importances.candidate_draws),
        ),
        ranking=_ranking(baseline, importances),
        repair=_repair(observed, part_ref, part_cand, part_weights),
        bound=audit(damage, part_ref, part_cand),
        association=associate(
            importances.reference, drift[measured], layers, part_draws, moved[:, measured], seed=spec.seed
        ),
        heads=_heads(baseline, observed, importances, sums, fragility(damage), part_cand),
    )


def _part(baseline: Recording, values: Array) -> Array:
    """Of values `[..., solved]` those of the prompts that z is kept of."""
    place = {prompt: column for column, prompt in enumerate(baseline.solved)}
    return values[..., [place[prompt] for prompt in baseline.z.index]].astype(np.float64)


def _importances(baseline: Recording, observed: Observation, weights: Array) -> Importances:
    reference = baseline.effects(baseline.spec.ablation)
    candidate = observed.metric[None].astype(np.float64) - observed.ablated
    draws = (weighted_means(weights, effects) for effects in (reference, candidate))
    return Importances(reference.mean(axis=1), candidate.mean(axis=1), *draws)


def _metric_change(reference: Array, candidate: Array, weights: Array) -> Estimate:
    change = weighted_means(weights, candidate) / weighted_means(weights, reference) - 1
    return magnitude(estimate(float(candidate.mean() / reference.mean() - 1), change))


def magnitude(signed: Estimate) -> Estimate:
    """The estimate of an absolute value; its interval reaches 0 where the signed one contains it."""
    ends = abs(signed.low), abs(signed.high)
    low = 0.0 if signed.low <= 0 <= signed.high else min(ends)
    return Estimate(abs(signed.value), low, max(ends))


def _ranking(baseline: Recording, importances: Importances) -> Ranking:
    reference, candidate = importances.reference, importances.candidate
    options: dict[str, Any] = {
        "persistence": baseline.spec.persistence,
        "tied_a": _contain_zero(reference, importances.reference_draws),
        "tied_b": _contain_zero(candidate, importances.candidate_draws),
    }
    draws = rank_biased_overlap_draws(importances.reference_draws, importances.candidate_draws, **options)
    return Ranking(
        agreement=estimate(rank_biased_overlap(reference, candidate, **options), draws),
        ceiling=float("nan") if baseline.ceiling is None else baseline.ceiling,
        top_k=top_k_overlap(reference, candidate),
        kendall=kendall_tau_b(reference, candidate),
    )


def _contain_zero(importance: Array, draws: Array) -> Array:
    """Heads that cannot be told from zero: ties at the bottom of a ranking."""
    intervals = [estimate(float(value), column) for value, column in zip(importance, draws.T, strict=True)]
    return np.array([interval.low <= 0 <= interval.high for interval in intervals])


def _repair(observed: Observation, reference: Array, candidate: Array, weights: Array) -> Repair:
    plan = observed.plan
    recoveries = recovery(reference, candidate, observed.repaired, weights)
    curves = {
        order: tuple(CurvePoint(k, recoveries[place]) for k, place in zip(plan.grid, plan.curve(order), strict=True))
        for order in plan.orders
    }
    damage_curves = np.array([[point.recovery.value for point in curves[order]] for order in DAMAGE_ORDERS])
    n_heads = plan.grid[-1]
    diagnosis = diagnose(reference, candidate, weights, damage_curves, plan.grid, n_heads)
    everything = plan.curve("importance")[-1]
    repaired = observed.repaired[everything].astype(np.float64)
    return Repair(
        damage=mean_estimate(reference - candidate, weights),
        unrepaired=_metric_change(reference, repaired, weights),
        recovery=None if diagnosis in ("no damage", "unresolved") else recoveries[everything],
        curves=curves,
        diagnosis=diagnosis,
    )


def _heads(
    baseline: Recording,
    observed: Observation,
    importances: Importances,
    sums: DriftSums,
    fragilities: Array,
    part_cand: Array,
) -> tuple[HeadMeasure, ...]:
    drift, cosines = relative_drift(sums), cosine(sums)
    last = drift_sums(baseline.z.answer_position(), observed.z.answer_position())
    at_answer, cosines_at_answer = relative_drift(last), cosine(last)
    # The plan's first sets are the single heads, in order.
    gains = (observed.repaired[: len(baseline.heads)] - part_cand).mean(axis=1)
    importance = _importance_of_heads(baseline, importances)
    return tuple(
        HeadMeasure(
            layer=head[0],
            head=head[1],
            **importance.get(head, UNMEASURED),
            drift=float(drift[place]),
            drift_answer=float(at_answer[place]),
            cosine=float(cosines[place]),
            cosine_answer=float(cosines_at_answer[place]),
            fragility=float(fragilities[place]),
            repair_gain=float(gains[place]),
        )
        for place, head in enumerate(baseline.heads)
    )


def _importance_of_heads(baseline: Recording, importances: Importances) -> dict[Head, dict[str, Any]]:
    """What is known of each measured head's importance, by the names of `HeadMeasure`."""
    rank_ref, rank_cand = ranks(importances.reference), ranks(importances.candidate)
    change_draws = importances.candidate_draws - importances.reference_draws
    change = importances.candidate - importances.reference
    return {
        head: {
            "importance_ref": estimate(float(importances.reference[place]), importances.reference_draws[:, place]),
            "importance_cand": estimate(float(importances.candidate[place]), importances.candidate_draws[:, place]),
            "importance_change": estimate(float(change[place]), change_draws[:, place]),
            "rank_ref": int(rank_ref[place]),
            "rank_cand": int(rank_cand[place]),
        }
        for place, head in enumerate(baseline.measured)
    }
