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
from circuitcheck.sites.prove import measuring, prove
from circuitcheck.sweep.ablate import ablated_metric
from circuitcheck.sweep.cache import ZCache
from circuitcheck.sweep.clean import clean_metric, clean_z
from circuitcheck.sweep.progress import Advance
from circuitcheck.sweep.repair import repaired_metric

PROBE_PROMPTS = 2


@dataclass(frozen=True)
class Observation:
    """What a candidate did on a baseline's solved prompts.

    Attributes:
        metric: m of every solved prompt, `[solved]`.
        ablated: m with each head ablated, `[heads, solved]`.
        z: of the prompts and positions that the baseline keeps.
        plan: which sets of heads were repaired.
        repaired: m under each set, `[sets, part]`.
    """

    metric: NDArray[Any]
    ablated: NDArray[Any]
    z: ZCache
    plan: RepairPlan
    repaired: NDArray[Any]


def observe(candidate: HookedModel, baseline: Recording, advance: Advance) -> Observation:
    """Runs the candidate's clean passes, ablations and repairs.

    Raises:
        SiteError: the hooks fail a proof on the candidate.
        CandidateError: a value is not finite.
        ModelChangedError: the measurement changed the candidate.
    """
    task, spec = baseline.task, baseline.spec
    with measuring(candidate):
        prove(candidate, task.batches()[0].clean[:PROBE_PROMPTS].to(candidate.device))
        metric = clean_metric(candidate, task)[list(baseline.solved)]
        _require_finite(candidate, task.name, "logit differences", metric)
        z = clean_z(candidate, task, baseline.z.index)
        z = z if spec.positions == "all" else z.answer_position()
        drift = relative_drift(drift_sums(baseline.z, z))
        ablated = ablated_metric(candidate, task, baseline.solved, spec.ablation, advance)
        _require_finite(candidate, task.name, f"logit differences under {spec.ablation} ablation", ablated)
        plan = plan_repair(baseline.importance(spec.ablation), drift, spec.seed)
        repaired = repaired_metric(candidate, task, baseline.z, plan.heads(candidate.heads), advance)
        _require_finite(candidate, task.name, "logit differences under repair", repaired)
    return Observation(metric, ablated, z, plan, repaired)


def _require_finite(candidate: HookedModel, task: str, what: str, values: NDArray[Any]) -> None:
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise CandidateError(
            f"candidate {candidate.name} ({candidate.precision}) on task {task!r}: {wrong} of {values.size} {what} are "
            "NaN or infinite. Its weights or activations overflow; it cannot be released like this."
        )
