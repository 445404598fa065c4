"""From what a reference and a candidate did to the measures and their intervals. No model runs here."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.results import UNKNOWN, Association, Circuit, Estimate, Ranking, UnitMeasure
from circuitcheck.core.units import Unit
from circuitcheck.diagnostics.association import associate
from circuitcheck.diagnostics.bound_audit import audit
from circuitcheck.gate.basis import basis_of
from circuitcheck.gate.excess import excess_of
from circuitcheck.gate.many import least_scale, measure_population
from circuitcheck.gate.observation import Observation
from circuitcheck.gate.placing import place_damage
from circuitcheck.gate.repair import mean_change, summarize_repair
from circuitcheck.gate.routing import measure_routing
from circuitcheck.gate.sample import Sample, ablated_sample, part_sample, solved_sample
from circuitcheck.gate.survival import measure_features
from circuitcheck.stats.bootstrap import mean_estimate, share_estimate, weighted_means
from circuitcheck.stats.divergence import kl_divergence
from circuitcheck.stats.drift import DriftSums, cosine, drift_draws, moves, pooled_sums, relative_drift
from circuitcheck.stats.estimate import estimate, mean_estimates
from circuitcheck.stats.first_order import fragility
from circuitcheck.stats.ranking import (
    at_the_bottom,
    kendall_tau_b,
    rank_biased_overlap,
    rank_biased_overlap_draws,
    ranks,
    reversed_overlap,
    top_k_overlap,
)
from circuitcheck.stats.simultaneous import largest_magnitude, profile_changes, simultaneous

Array = NDArray[Any]
UNMEASURED: dict[str, Any] = {
    "importance_ref": UNKNOWN,
    "importance_cand": UNKNOWN,
    "importance_change": UNKNOWN,
    "profile_change": UNKNOWN,
    "rank_ref": None,
    "rank_cand": None,
}
"""What is known of the importance of a unit that a screened sweep left out."""

MATTERS = 0.1
"""Share of its metric by which a prompt has to move before prompts could be lost."""


@dataclass(frozen=True)
class Importances:
    """Importances of both sides of the measured units, on the same prompts and the same bootstrap draws.

    Attributes:
        reference: in logits, `[measured]`.
        candidate: in logits, `[measured]`.
        reference_draws: `[draws, measured]`.
        candidate_draws: `[draws, measured]`.
        change: candidate minus reference, in logits, with intervals that hold together.
        profile: the same relative to the largest |importance| of the reference, dimensionless.
        profile_alone: the same with intervals that hold each by itself.
    """

    reference: Array
    candidate: Array
    reference_draws: Array
    candidate_draws: Array
    change: list[Estimate]
    profile: list[Estimate]
    profile_alone: list[Estimate]


def summarize(baseline: Recording, observed: Observation, precision: str, integrated: Array | None = None) -> Circuit:
    """All measures of one candidate, each with an interval from the same clustered, paired bootstrap.

    Args:
        baseline: the reference's side.
        observed: the candidate's side.
        precision: the candidate's.
        integrated: integrated gradients times the way of z, in logits, `[units, part]`, where they are known.
    """
    sample, part = solved_sample(baseline, observed.level), part_sample(baseline, observed.level)
    # Means of float32 are float32: without this a candidate that equals the reference would differ from it.
    metric_ref = baseline.metric[list(baseline.solved)].astype(np.float64)
    metric_cand = observed.metric.astype(np.float64)
    ablated = ablated_sample(baseline, observed.level)
    importances = _importances(baseline, observed, ablated)
    sums = observed.written.sums
    drift, moved = relative_drift(sums), drift_draws(sums, part.weights)
    part_ref, part_cand = baseline.of_part(metric_ref), baseline.of_part(metric_cand)
    return Circuit(
        **_next_token(baseline, observed, sample),
        behaviour_kept=share_estimate(
            observed.preference > 0,
            sample.weights,
            sample.level,
            sample.nominal,
            changes=_changes_that_matter(metric_ref, metric_cand),
            units=sample.units,
        ),
        metric_change=mean_change(metric_ref, metric_cand, sample, baseline.spec.metric),
        metric_ref=mean_estimate(metric_ref, sample.weights, sample.level),
        metric_cand=mean_estimate(metric_cand, sample.weights, sample.level),
        drift=_pooled(sums, part),
        drift_median=estimate(float(np.median(drift)), np.median(moved, axis=1), part.level),
        drift_largest=largest_magnitude(
            simultaneous(drift, moved, part.units, part.nominal),
            simultaneous(drift, moved, part.units, part.nominal, alone=True),
        ),
        excess=excess_of(baseline, sums, part, precision, observed.population),
        profile_distance=largest_magnitude(importances.profile, importances.profile_alone),
        ranking=_ranking(baseline, importances, ablated),
        repair=summarize_repair(observed, part_ref, part_cand, part, baseline.spec.metric, baseline.spec.seed),
        bound=audit(observed.first_order, part_ref, part_cand, integrated),
        associations=_associations(baseline, drift, moved, part),
        basis=basis_of(baseline, observed.written),
        units=_units(baseline, observed, importances, sums, part_cand, ablated),
        population=measure_population(baseline, observed.population),
        features=measure_features(baseline, observed.features, part, precision),
        routing=measure_routing(baseline, observed.routes, part),
        placing=place_damage(baseline, observed.modules, part_cand, part),
    )


def _next_token(baseline: Recording, observed: Observation, sample: Sample) -> dict[str, Estimate | None]:
    """What everybody else looks at, beside the circuit: no criterion."""
    ours, theirs = baseline.next_token, observed.next_token
    if ours is None or theirs is None:
        return {"kl_divergence": None, "changed_answers": None}
    divergence = kl_divergence(ours.log_probabilities, theirs.log_probabilities)
    changed = ours.likeliest != theirs.likeliest
    return {
        "kl_divergence": mean_estimate(divergence, sample.weights, sample.level),
        "changed_answers": share_estimate(changed, sample.weights, sample.level, sample.nominal),
    }


def _pooled(sums: DriftSums, part: Sample) -> Estimate:
    pooled = pooled_sums(sums)
    return mean_estimates(relative_drift(pooled), drift_draws(pooled, part.weights), part.level)[0]


def _changes_that_matter(reference: Array, candidate: Array) -> Array | None:
    """What moved each prompt; None where none moved by a tenth of what it had: that loses no template as a whole."""
    changes = candidate - reference
    return changes if (np.abs(changes) > MATTERS * np.abs(reference)).any() else None


def _importances(baseline: Recording, observed: Observation, sample: Sample) -> Importances:
    reference = baseline.effects(baseline.spec.ablation)
    clean = observed.metric[: len(baseline.ablated_on)].astype(np.float64)
    candidate = clean[None] - observed.ablated
    ours, theirs = (weighted_means(sample.weights, effects) for effects in (reference, candidate))
    before, after = reference.mean(axis=1), candidate.mean(axis=1)
    moved = after - before, before, theirs - ours, ours, sample.units, sample.nominal
    metric = float(baseline.metric[list(baseline.ablated_on.index)].mean(dtype=np.float64))
    least = least_scale(baseline.layout, metric, baseline.spec.metric)
    return Importances(
        before,
        after,
        ours,
        theirs,
        change=simultaneous(after - before, theirs - ours, sample.units, sample.nominal),
        profile=profile_changes(*moved, least=least),
        profile_alone=profile_changes(*moved, alone=True, least=least),
    )


def _ranking(baseline: Recording, importances: Importances, sample: Sample) -> Ranking:
    reference, candidate = importances.reference, importances.candidate
    options: dict[str, Any] = {
        "persistence": baseline.spec.persistence,
        "tied_a": at_the_bottom(reference, importances.reference_draws, sample.level),
        "tied_b": at_the_bottom(candidate, importances.candidate_draws, sample.level),
    }
    draws = rank_biased_overlap_draws(importances.reference_draws, importances.candidate_draws, **options)
    return Ranking(
        agreement=estimate(rank_biased_overlap(reference, candidate, **options), draws, sample.level),
        ceiling=float("nan") if baseline.ceiling is None else baseline.ceiling,
        ranked=int((~options["tied_a"]).sum()),
        reversed=reversed_overlap(reference, options["tied_a"], baseline.spec.persistence),
        top_5=top_k_overlap(reference, candidate),
        kendall_tau_b=kendall_tau_b(reference, candidate),
    )


def _associations(baseline: Recording, drift: Array, moved: Array, part: Sample) -> dict[str, Association]:
    """Kind to importance against drift, of the measured units; `moved` holds drift's draws, `[draws, units]`."""
    measured = set(baseline.measured)
    places = [place for place, unit in enumerate(baseline.layout.units) if unit in measured]
    layers = np.array([baseline.layout.layer(unit) for unit in baseline.measured])
    return {
        kind: associate(
            baseline.importance(kind),
            drift[places],
            layers,
            # Drift is known of the part alone, so its draws are paired with importances of the part.
            weighted_means(part.weights, baseline.effects_of_part(kind)),
            moved[:, places],
            level=part.level,
            seed=baseline.spec.seed,
        )
        for kind in baseline.ablated
    }


def _units(
    baseline: Recording,
    observed: Observation,
    importances: Importances,
    sums: DriftSums,
    part_cand: Array,
    sample: Sample,
) -> tuple[UnitMeasure, ...]:
    drift, cosines, moved = relative_drift(sums), cosine(sums), moves(sums)
    last, coordinates = observed.written.at_answer, relative_drift(observed.written.coordinates)
    at_answer, cosines_at_answer = relative_drift(last), cosine(last)
    fragilities, layout = fragility(observed.first_order), baseline.layout
    importance = _importance_of_units(baseline, importances, sample)
    gains = _gains_alone(observed, part_cand)
    return tuple(
        UnitMeasure(
            unit=layout.label(unit),
            layer=layout.layer(unit),
            column=layout.column(unit),
            **importance.get(unit, UNMEASURED),
            drift=float(drift[place]),
            move=float(moved[place]),
            drift_z=float(coordinates[place]),
            drift_answer=float(at_answer[place]),
            cosine=float(cosines[place]),
            cosine_answer=float(cosines_at_answer[place]),
            fragility=float(fragilities[place]),
            repair_gain=gains.get(unit, nan),
        )
        for place, unit in enumerate(layout.units)
    )


def _gains_alone(observed: Observation, part_cand: Array) -> dict[Unit, float]:
    """What the metric changes by where one unit alone is repaired; of those that were."""
    gains = (observed.repaired - part_cand).mean(axis=1)
    return {units[0]: float(gain) for units, gain in zip(observed.plan.sets, gains, strict=True) if len(units) == 1}


def _importance_under(baseline: Recording, kind: str, sample: Sample) -> list[Estimate]:
    """The reference's importance of each measured unit by one kind of ablation."""
    effects = baseline.effects(kind)
    return mean_estimates(effects.mean(axis=1), weighted_means(sample.weights, effects), sample.level)


def _importance_of_units(baseline: Recording, importances: Importances, sample: Sample) -> dict[Unit, dict[str, Any]]:
    """What is known of each measured unit's importance, by the names of `UnitMeasure`."""
    rank_ref, rank_cand = ranks(importances.reference), ranks(importances.candidate)
    ours, theirs = (
        mean_estimates(values, draws, sample.level)
        for values, draws in (
            (importances.reference, importances.reference_draws),
            (importances.candidate, importances.candidate_draws),
        )
    )
    by_kind = {kind: _importance_under(baseline, kind, sample) for kind in baseline.ablated}
    return {
        unit: {
            "importance_ref": ours[place],
            "importance_ref_by_kind": {kind: found[place] for kind, found in by_kind.items()},
            "importance_cand": theirs[place],
            "importance_change": importances.change[place],
            "profile_change": importances.profile[place],
            "rank_ref": int(rank_ref[place]),
            "rank_cand": int(rank_cand[place]),
        }
        for place, unit in enumerate(baseline.measured)
    }
