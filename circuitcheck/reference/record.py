"""Recording a reference: from a model and a task to a golden baseline."""

from __future__ import annotations

import numpy as np

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.environment import environment
from circuitcheck.errors import ModelError
from circuitcheck.measures.ranking import split_half_agreement
from circuitcheck.models.hooked import HookedModel
from circuitcheck.reference.noise import noise_floor
from circuitcheck.sites.prove import measuring, prove
from circuitcheck.spec import MeasurementSpec
from circuitcheck.sweep.ablate import KINDS, ablated_metric
from circuitcheck.sweep.cache import ZCache
from circuitcheck.sweep.clean import clean_metric, clean_z, counterfactual_metric
from circuitcheck.sweep.gradient import z_gradient
from circuitcheck.sweep.progress import Advance, silent
from circuitcheck.tasks.pairs import Task

PROBE_PROMPTS = 2


def record_reference(
    model: HookedModel,
    task: Task,
    spec: MeasurementSpec | None = None,
    *,
    reason: str = "",
    advance: Advance = silent,
) -> Baseline:
    """Records the circuit of a float32 reference.

    Args:
        model: the reference; it is left as it was found.
        task: the prompts.
        spec: what to measure.
        reason: why this is the truth from now on; kept in the baseline.
        advance: called with the number of (head, prompt) rows that were just finished.

    Returns:
        The baseline, which also says so if the reference does not solve the task.

    Raises:
        SiteError: the hooks fail a proof on this model.
        ModelError: the reference gives values that are not finite.
        ModelChangedError: the measurement changed the model.
    """
    spec = spec or MeasurementSpec()
    with measuring(model):
        prove(model, task.batches()[0].clean[:PROBE_PROMPTS].to(model.device))
        metric, counterfactual = clean_metric(model, task), counterfactual_metric(model, task)
        if not np.isfinite([metric, counterfactual]).all():
            raise ModelError(f"reference {model.name}: its logits on task {task.name!r} are not finite.")
        solved = tuple(int(place) for place in np.flatnonzero(metric > spec.margin))
        ablated = {str(kind): ablated_metric(model, task, solved, kind, advance) for kind in KINDS}
        part = solved[: spec.part]
        z, gradient = (_kept(cache, spec) for cache in (clean_z(model, task, part), z_gradient(model, task, part)))
        effects = metric[list(solved)][None] - ablated[spec.ablation]
        floor = noise_floor(model, task, spec, z, metric, effects[:, : len(part)]) if solved else {}
    clusters = [task.pairs[place].cluster for place in solved]
    return Baseline(
        model=model.name,
        architecture=model.architecture,
        task=task,
        spec=spec,
        fingerprints=model.fingerprints,
        heads=tuple(model.heads),
        metric=metric,
        counterfactual=counterfactual,
        solved=solved,
        ablated=ablated,
        z=z,
        gradient=gradient,
        ceiling=split_half_agreement(effects, clusters, persistence=spec.persistence) if solved else None,
        noise_floor=floor,
        environment=environment(),
        reason=reason,
    )


def _kept(cache: ZCache, spec: MeasurementSpec) -> ZCache:
    return cache if spec.positions == "all" else cache.answer_position()
