"""Recording a reference: from a model and a task to a golden baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.beside import BESIDE, PROMPTS, Beside
from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import ConfigurationError, ModelError, SiteError
from circuitcheck.core.metric import LOGIT_DIFFERENCE, metric_from_settings
from circuitcheck.core.patch import Patch
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.prompts import Prompts, Task
from circuitcheck.core.reading import tokens_to_read
from circuitcheck.core.runtime import Execute, Rounding, Runtime, Variation, Work
from circuitcheck.core.specification import ABLATIONS, Ablation, MeasurementSpec
from circuitcheck.core.units import Unit
from circuitcheck.gate.many import Chosen, choose_units, population_of
from circuitcheck.gate.preference import preference
from circuitcheck.gate.repeat import measured_noise
from circuitcheck.gate.rounding import with_roundings
from circuitcheck.gate.routing import routes_of
from circuitcheck.gate.screen import screened_metric
from circuitcheck.gate.survival import on_task, record_features
from circuitcheck.stats.ranking import split_half_agreement

TOKENS_A_BLOCK_NUMBER = 2
"""Tokens that whole modules are read at, for each of their numbers: repair is all that asks for it."""


def record_reference(
    model: Runtime,
    task: Task,
    spec: MeasurementSpec | None = None,
    *,
    reason: str = "",
    advance: Advance = silent,
    memory: int | None = None,
    execute: Execute | None = None,
    kinds: Sequence[Ablation] = ABLATIONS,
    sources: Sequence[Variation] | None = None,
    roundings: Sequence[Rounding] | None = None,
    chosen: Chosen | None = None,
) -> Baseline:
    """Records the circuit of a float32 reference.

    Units are ablated (Wang et al. 2022, arXiv:2211.00593) from the paired counterfactual, by the mean and by zero;
    gradients are those of attribution patching (Syed et al. 2023, arXiv:2310.10348).

    Args:
        model: the reference; it is left as it was found.
        task: the prompts.
        spec: what to measure; a metric that the model was hooked with is measured where the spec names none.
        reason: why this is the truth from now on; kept in the baseline.
        advance: called with the number of (unit, prompt) rows that were just finished.
        memory: budget in bytes for what the sweeps keep beside the model; by default a share of what is free.
        execute: carries out patches in another way than all at once; see `circuitcheck.gate.parts`.
        kinds: kinds of ablation, `spec.ablation` among them.
        sources: sources of noise to try; one of each kind by default.
        roundings: ways to round it, so that the baseline knows what a precision costs this model; by default all that
            its runtime knows. With none, limits of other models hold.
        chosen: of a kind with too many units, which are measured; by default those that its gradients point to.

    Returns:
        The baseline, which also says so if the reference does not solve the task.

    Raises:
        ConfigurationError: a metric that cannot be used, or two different ones.
        SiteError: the hooks fail a proof on this model.
        ModelError: the reference gives values that are not finite, no unit of it matters, or a prompt is longer than it
            has positions.
        ModelChangedError: the measurement changed the model.
        MemoryBudgetError: one prompt and unit alone does not fit the budget or the machine.
    """
    model, spec = _agreed(model, spec or MeasurementSpec())
    about = {"reference": model.facts.fingerprints.get("weights", ""), "spec": spec.fingerprint}
    work = Work(memory, advance, list(model.facts.notes), execute, about)
    everything, kind = task.prompts(), spec.unit
    model = on_task(model, everything, kind)
    with model.unchanged():
        # First, because a proof by numbers that are not finite blames the hooks.
        metric, counterfactual = model.metric(everything), model.metric(everything, counterfactual=True)
        preferred = preference(model, everything, metric)
        _require_finite(model, task, "logits", metric, counterfactual, preferred)
        model.prove(everything, kind)
        solved = task.prompts(int(place) for place in np.flatnonzero(preferred > spec.margin))
        part = task.prompts(solved.index[: spec.part])
        everyone = model
        if model.layout(kind).is_many:
            chosen = chosen or choose_units(model, part, spec, work)
            model = model.narrowed(chosen.layout)
        measured, ablated = _sweep(model, solved, spec, kinds, work)
        for ablation, values in ablated.items():
            _require_finite(model, task, f"logits under {ablation} ablation", values)
        z, gradient = (
            _kept(values, spec) for values in (model.activations(part, kind), model.gradient(part, kind, work=work)[1])
        )
        _require_finite(model, task, f"{kind}s", *z.groups)
        tokens = tokens_to_read(model.layout(kind), model.facts.vocabulary, spec.seed)
        reading = model.reading(kind, tokens, z.amplitudes())
        _require_finite(model, task, f"writes of {kind}s", *reading.maps)
        _require_finite(model, task, "gradients", *gradient.groups)
        next_token = model.next_token(solved) if solved.index else None
        population = population_of(everyone, chosen, part, tokens, spec, work) if chosen and solved.index else None
        features, routes = record_features(everyone, part, kind), routes_of(model, part)
        beside = _beside(model, part, spec, work) if solved.index and not chosen else None
        effects = metric[list(solved.index)][None].astype(np.float64) - ablated[spec.ablation]
        tried = model.variations() if sources is None else sources
        noise = (
            measured_noise(model, spec, measured, z, reading, metric, solved, effects, tried, work)
            if solved.index
            else {}
        )
    layout = model.layout(kind)
    clusters = [task.pairs[place].cluster for place in solved.index]
    facts = model.facts
    recorded = Baseline(
        model=facts.name,
        architecture=facts.architecture,
        task=task,
        spec=spec,
        fingerprints=facts.fingerprints,
        layout=layout,
        measured=measured,
        metric=metric,
        counterfactual=counterfactual,
        solved=solved.index,
        ablated=ablated,
        z=z,
        gradient=gradient,
        reading=reading,
        next_token=next_token,
        population=population,
        beside=beside,
        features=features,
        routes=routes,
        # One prompt cannot be halved.
        ceiling=split_half_agreement(effects, clusters, persistence=spec.persistence) if len(clusters) > 1 else None,
        noise={facts.environment["instruction_set"]: noise} if noise else {},
        environment=facts.environment,
        reason=reason,
        notes=tuple(work.notes),
    )
    ways = model.roundings(everything) if roundings is None else roundings
    return with_roundings(recorded, ways, work)


def _agreed(model: Runtime, spec: MeasurementSpec) -> tuple[Runtime, MeasurementSpec]:
    """The model and the spec with one metric: the spec's, or the model's own where the spec names none."""
    own = model.quantity.name
    if own == LOGIT_DIFFERENCE.name:
        return model.measured_by(metric_from_settings(spec.metric)), spec
    if spec.metric not in (own, LOGIT_DIFFERENCE.name):
        raise ConfigurationError(
            f"reference {model.facts.name} was hooked with the metric {own}, and the spec names {spec.metric}; leave "
            "out one."
        )
    return model, replace(spec, metric=own)


def _sweep(
    model: Runtime, solved: Prompts, spec: MeasurementSpec, kinds: Sequence[Ablation], work: Work
) -> tuple[tuple[Unit, ...], dict[str, NDArray[np.float32]]]:
    """The units that were measured, in order, and kind to m with each of them ablated, `[measured, solved]`."""
    units, known = model.layout(spec.unit).units, {}
    if spec.sweep == "screened" and solved.index and not model.layout(spec.unit).is_some:
        # The other kinds measure the same units, so that all three profiles speak of one set.
        screened = screened_metric(model, solved, spec, work)
        units = tuple(sorted(screened.measured))
        known[spec.ablation] = screened.metric[[screened.measured.index(unit) for unit in units]]
    for kind in kinds:
        if kind not in known:
            patch = Patch(spec.unit, tuple((unit,) for unit in units), kind, spec.ablate_at)
            known[kind] = work.patching(model)(solved, patch, work)
    return units, {str(kind): metric for kind, metric in known.items()}


def _beside(model: Runtime, part: Prompts, spec: MeasurementSpec, work: Work) -> Beside | None:
    """Units of another kind, by whose repair damage is placed; None where that is the kind, or there are none."""
    if spec.unit == BESIDE:
        return None
    some = part.task.prompts(part.index[:PROMPTS])
    try:
        layout = model.layout(BESIDE)
        model.prove(some, BESIDE)
    except SiteError as error:
        work.notes.append(f"Damage cannot be placed by layer and module: {error}")
        return None
    z = _kept(model.activations(some, BESIDE), spec)
    tokens = tokens_to_read(layout, model.facts.vocabulary, spec.seed, TOKENS_A_BLOCK_NUMBER)
    return Beside(layout, z, model.reading(BESIDE, tokens, z.amplitudes()))


def _require_finite(model: Runtime, task: Task, what: str, *values: NDArray[Any]) -> None:
    if not all(np.isfinite(array).all() for array in values):
        raise ModelError(
            f"reference {model.facts.name}: its {what} on task {task.name!r} are not finite. Nothing can be compared "
            "with such a reference; load its weights in float32, or repair them."
        )


def _kept(values: Activations, spec: MeasurementSpec) -> Activations:
    return values if spec.positions == "all" else values.answer_position()
