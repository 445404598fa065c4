"""Recording a reference: from a model and a task to a golden baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.activations import ZCache
from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.core.metric import LOGIT_DIFFERENCE
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.prompts import Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.repeat import measured_noise
from circuitcheck.gate.screen import screened_metric
from circuitcheck.runtimes.pytorch.engine.ablate import KINDS, AblationKind, ablated_metric
from circuitcheck.runtimes.pytorch.engine.clean import clean_metric, clean_preference, clean_z, counterfactual_metric
from circuitcheck.runtimes.pytorch.engine.gradient import z_gradient
from circuitcheck.runtimes.pytorch.environment import environment
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.proofs import PROBE_PROMPTS, measuring, prove
from circuitcheck.runtimes.pytorch.ports.room import require_room
from circuitcheck.runtimes.pytorch.ports.structure import Head
from circuitcheck.runtimes.pytorch.variations import Source, usual_sources
from circuitcheck.stats.ranking import split_half_agreement


def record_reference(
    model: HookedModel,
    task: Task,
    spec: MeasurementSpec | None = None,
    *,
    reason: str = "",
    advance: Advance = silent,
    memory: int | None = None,
    kinds: Sequence[AblationKind] = KINDS,
    sources: Sequence[Source] | None = None,
) -> Baseline:
    """Records the circuit of a float32 reference.

    Heads are ablated (Wang et al. 2022, arXiv:2211.00593) from the paired counterfactual, by the mean and by zero;
    gradients are those of attribution patching (Syed et al. 2023, arXiv:2310.10348).

    Args:
        model: the reference; it is left as it was found.
        task: the prompts.
        spec: what to measure; a metric that the model was hooked with is measured where the spec names none.
        reason: why this is the truth from now on; kept in the baseline.
        advance: called with the number of (head, prompt) rows that were just finished.
        memory: budget in bytes for what the sweeps keep beside the model; by default a share of what is free.
        kinds: kinds of ablation, `spec.ablation` among them.
        sources: sources of noise to try; one of each kind by default.

    Returns:
        The baseline, which also says so if the reference does not solve the task.

    Raises:
        ConfigurationError: a metric that cannot be used, or two different ones.
        SiteError: the hooks fail a proof on this model.
        ModelError: the reference gives values that are not finite, no head of it matters, or a prompt is longer than it
            has positions.
        ModelChangedError: the measurement changed the model.
        MemoryBudgetError: one prompt and head alone does not fit the budget or the machine.
    """
    model, spec = _agreed(model, spec or MeasurementSpec())
    notes = list(model.notes)
    require_room(model, max(len(pair.clean) for pair in task.pairs))
    with measuring(model):
        # First, because a proof by numbers that are not finite blames the hooks.
        metric, counterfactual = clean_metric(model, task), counterfactual_metric(model, task)
        preference = clean_preference(model, task, metric)
        _require_finite(model, task, "logits", metric, counterfactual, preference)
        prove(model, task.batches()[0].clean[: model.at_most(PROBE_PROMPTS)].to(model.device))
        solved = tuple(int(place) for place in np.flatnonzero(preference > spec.margin))
        measured, ablated = _sweep(model, task, spec, solved, kinds, advance, memory, notes)
        for kind, values in ablated.items():
            _require_finite(model, task, f"logits under {kind} ablation", values)
        part = solved[: spec.part]
        z, gradient = (_kept(cache, spec) for cache in (clean_z(model, task, part), z_gradient(model, task, part)))
        _require_finite(model, task, "attention heads", *(layer.numpy() for layer in z.layers))
        _require_finite(model, task, "gradients", *(layer.numpy() for layer in gradient.layers))
        effects = metric[list(solved)][None].astype(np.float64) - ablated[spec.ablation]
        early = effects[:, : len(part)]
        tried = usual_sources(model) if sources is None else sources
        options: dict[str, Any] = {"heads": measured, "solved": solved, "memory": memory}
        noise = measured_noise(model, task, spec, z, metric, early, tried, **options) if solved else {}
    where = environment(model.device)
    clusters = [task.pairs[place].cluster for place in solved]
    return Baseline(
        model=model.name,
        architecture=model.architecture,
        task=task,
        spec=spec,
        fingerprints=model.fingerprints,
        heads=tuple(model.heads),
        measured=measured,
        metric=metric,
        counterfactual=counterfactual,
        solved=solved,
        ablated=ablated,
        z=z,
        gradient=gradient,
        # One prompt cannot be halved.
        ceiling=split_half_agreement(effects, clusters, persistence=spec.persistence) if len(solved) > 1 else None,
        noise={where["instruction_set"]: noise} if noise else {},
        environment=where,
        reason=reason,
        notes=tuple(notes),
    )


def _agreed(model: HookedModel, spec: MeasurementSpec) -> tuple[HookedModel, MeasurementSpec]:
    """The model and the spec with one metric: the spec's, or the model's own where the spec names none."""
    own = model.metric.name
    if own == LOGIT_DIFFERENCE.name:
        return model.measured_by(spec.metric), spec
    if spec.metric not in (own, LOGIT_DIFFERENCE.name):
        raise ConfigurationError(
            f"reference {model.name} was hooked with the metric {own}, and the spec names {spec.metric}; leave out one."
        )
    return model, replace(spec, metric=own)


def _sweep(
    model: HookedModel,
    task: Task,
    spec: MeasurementSpec,
    solved: tuple[int, ...],
    kinds: Sequence[AblationKind],
    advance: Advance,
    memory: int | None,
    notes: list[str],
) -> tuple[tuple[Head, ...], dict[str, NDArray[np.float32]]]:
    """The heads that were measured, in order, and kind to m with each of them ablated, `[measured, solved]`."""
    heads, known = tuple(model.heads), {}
    options: dict[str, Any] = {"at": spec.ablate_at, "memory": memory, "notes": notes}
    if spec.sweep == "screened" and solved:
        # The other kinds measure the same heads, so that all three profiles speak of one set.
        screened = screened_metric(model, task, solved, spec.ablation, advance, seed=spec.seed, **options)
        heads = tuple(sorted(screened.measured))
        known[spec.ablation] = screened.metric[[screened.measured.index(head) for head in heads]]
    for kind in kinds:
        if kind not in known:
            known[kind] = ablated_metric(model, task, solved, kind, advance, heads=heads, **options)
    return heads, {str(kind): metric for kind, metric in known.items()}


def _require_finite(model: HookedModel, task: Task, what: str, *values: NDArray[Any]) -> None:
    if not all(np.isfinite(array).all() for array in values):
        raise ModelError(
            f"reference {model.name}: its {what} on task {task.name!r} are not finite. Nothing can be compared with "
            "such a reference; load its weights in float32, or repair them."
        )


def _kept(cache: ZCache, spec: MeasurementSpec) -> ZCache:
    return cache if spec.positions == "all" else cache.answer_position()
