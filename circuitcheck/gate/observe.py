"""Running a candidate: everything about it that needs a forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.activations import ZCache
from circuitcheck.core.errors import CandidateError
from circuitcheck.core.progress import Advance
from circuitcheck.gate.repair_plan import RepairPlan, plan_repair
from circuitcheck.gate.sample import of_part, part_sample
from circuitcheck.runtimes.pytorch.engine.ablate import ablated_metric
from circuitcheck.runtimes.pytorch.engine.clean import clean_metric, clean_preference, clean_z
from circuitcheck.runtimes.pytorch.engine.repair import repaired_metric
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.proofs import PROBE_PROMPTS, measuring, prove
from circuitcheck.runtimes.pytorch.ports.room import require_room
from circuitcheck.stats.drift import drift_sums, relative_drift
from circuitcheck.stats.first_order import FirstOrder, first_order, fragility
from circuitcheck.stats.recovery import Damage, damage


@dataclass(frozen=True)
class Observation:
    """What a candidate did on a baseline's solved prompts.

    Attributes:
        metric: m of every solved prompt, `[solved]`.
        preference: what says whether the candidate solves it, above 0 where it does, `[solved]`.
        ablated: m with each measured head ablated, `[measured, solved]`.
        z: of the prompts and positions that the baseline keeps.
        first_order: what the reference's gradient says of the way from its z to this one.
        damage: whether there is anything to repair.
        plan: which sets of heads were repaired.
        repaired: m under each set, `[sets, part]`.
        notes: what a reader must know about how it was run.
    """

    metric: NDArray[Any]
    preference: NDArray[Any]
    ablated: NDArray[Any]
    z: ZCache
    first_order: FirstOrder
    damage: Damage
    plan: RepairPlan
    repaired: NDArray[Any]
    notes: tuple[str, ...]


def observe(
    candidate: HookedModel, baseline: Recording, advance: Advance, memory: int | None, *, curves: bool = True
) -> Observation:
    """Runs the candidate's clean passes, ablations and repairs.

    Args:
        candidate: the candidate.
        baseline: what it is compared with.
        advance: called with the number of (head, prompt) rows that were just finished.
        memory: budget in bytes for the sweeps.
        curves: whether damage is repaired order by order, or by every head alone and all of them only.

    Raises:
        SiteError: the hooks fail a proof on the candidate.
        CandidateError: a value is not finite.
        ModelError: a prompt is longer than the candidate has positions.
        ModelChangedError: the measurement changed the candidate.
        ConfigurationError: the baseline's metric is a function that is not known here.
    """
    task, spec = baseline.task, baseline.spec
    candidate = candidate.measured_by(spec.metric)
    notes: list[str] = []
    require_room(candidate, max(len(pair.clean) for pair in task.pairs))
    with measuring(candidate):
        # First, because a proof by numbers that are not finite blames the hooks.
        metric = clean_metric(candidate, task)
        preference = clean_preference(candidate, task, metric)[list(baseline.solved)]
        metric = metric[list(baseline.solved)]
        _require_finite(candidate, task.name, "logit differences", preference)
        _require_finite(candidate, task.name, "values of the metric", metric)
        prove(candidate, task.batches()[0].clean[: candidate.at_most(PROBE_PROMPTS)].to(candidate.device))
        z = clean_z(candidate, task, baseline.z.index)
        z = z if spec.positions == "all" else z.answer_position()
        drift = relative_drift(drift_sums(baseline.z, z))
        ablated = ablated_metric(
            candidate,
            task,
            baseline.solved,
            spec.ablation,
            advance,
            heads=baseline.measured,
            at=spec.ablate_at,
            memory=memory,
            notes=notes,
        )
        _require_finite(candidate, task.name, f"logit differences under {spec.ablation} ablation", ablated)
        expected = first_order(baseline.gradient, baseline.z, z)
        word = _damage(baseline, metric)
        with_orders = curves and word == "damage"
        plan = plan_repair(_importance_of_all(baseline), drift, fragility(expected), spec.seed, with_orders=with_orders)
        sets = plan.heads(candidate.heads)
        repaired = repaired_metric(candidate, task, baseline.z, sets, advance, memory=memory, notes=notes)
        _require_finite(candidate, task.name, "logit differences under repair", repaired)
    return Observation(metric, preference, ablated, z, expected, word, plan, repaired, tuple(notes))


def _damage(baseline: Recording, metric: NDArray[Any]) -> Damage:
    """Of the prompts that can be repaired, those of the part; `metric` is of all solved ones."""
    sample, reference = part_sample(baseline), baseline.metric[list(baseline.z.index)].astype(np.float64)
    return damage(reference, of_part(baseline, metric), sample.weights, sample.level)


def _importance_of_all(baseline: Recording) -> NDArray[Any]:
    """The reference's importances, `[heads]`; heads that a screened sweep left out are repaired last."""
    known = dict(zip(baseline.measured, baseline.importance(baseline.spec.ablation), strict=True))
    return np.array([known.get(head, 0.0) for head in baseline.heads])


def _require_finite(candidate: HookedModel, task: str, what: str, values: NDArray[Any]) -> None:
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise CandidateError(
            f"candidate {candidate.name} ({candidate.precision}) on task {task!r}: {wrong} of {values.size} {what} are "
            "NaN or infinite. Its weights or activations overflow; it cannot be released like this."
        )
