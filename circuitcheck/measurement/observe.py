"""Running a candidate: everything about it that needs a forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.errors import CandidateError
from circuitcheck.measurement.orders import RepairPlan, plan_repair
from circuitcheck.measures.drift import drift_sums, relative_drift
from circuitcheck.models.hooked import HookedModel
from circuitcheck.sites.prove import PROBE_PROMPTS, measuring, prove
from circuitcheck.sweep.ablate import ablated_metric
from circuitcheck.sweep.cache import ZCache
from circuitcheck.sweep.clean import clean_metric, clean_z
from circuitcheck.sweep.progress import Advance
from circuitcheck.sweep.repair import repaired_metric


@dataclass(frozen=True)
class Observation:
    """What a candidate did on a baseline's solved prompts.

    Attributes:
        metric: m of every solved prompt, `[solved]`.
        ablated: m with each measured head ablated, `[measured, solved]`.
        z: of the prompts and positions that the baseline keeps.
        plan: which sets of heads were repaired.
        repaired: m under each set, `[sets, part]`.
        notes: what a reader must know about how it was run.
    """

    metric: NDArray[Any]
    ablated: NDArray[Any]
    z: ZCache
    plan: RepairPlan
    repaired: NDArray[Any]
    notes: tuple[str, ...]


def observe(candidate: HookedModel, baseline: Recording, advance: Advance, memory: int | None) -> Observation:
    """Runs the candidate's clean passes, ablations and repairs.

    Args:
        candidate: the candidate.
        baseline: what it is compared with.
        advance: called with the number of (head, prompt) rows that were just finished.
        memory: budget in bytes for the sweeps.

    Raises:
        SiteError: the hooks fail a proof on the candidate.
        CandidateError: a value is not finite.
        ModelChangedError: the measurement changed the candidate.
    """
    task, spec = baseline.task, baseline.spec
    notes: list[str] = []
    with measuring(candidate):
        # First, because a proof by numbers that are not finite blames the hooks.
        metric = clean_metric(candidate, task)[list(baseline.solved)]
        _require_finite(candidate, task.name, "logit differences", metric)
        prove(candidate, task.batches()[0].clean[:PROBE_PROMPTS].to(candidate.device))
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
            memory=memory,
            notes=notes,
        )
        _require_finite(candidate, task.name, f"logit differences under {spec.ablation} ablation", ablated)
        plan = plan_repair(_importance_of_all(baseline), drift, spec.seed)
        sets = plan.heads(candidate.heads)
        repaired = repaired_metric(candidate, task, baseline.z, sets, advance, memory=memory, notes=notes)
        _require_finite(candidate, task.name, "logit differences under repair", repaired)
    return Observation(metric, ablated, z, plan, repaired, tuple(notes))


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
