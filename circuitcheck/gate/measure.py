"""The gate's pipeline: a candidate and a golden baseline in, measures out. The reference is never loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import CandidateError
from circuitcheck.core.patch import Patch
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.results import Circuit, Measurement
from circuitcheck.core.runtime import Execute, Runtime, Work
from circuitcheck.diagnostics.integrated_gradients import integrated_damage
from circuitcheck.gate.basis import compare_writes
from circuitcheck.gate.many import compare_population
from circuitcheck.gate.observation import Observation, part_damage
from circuitcheck.gate.placing import Repaired, plan_placing
from circuitcheck.gate.preference import preference
from circuitcheck.gate.repair_plan import plan_repair
from circuitcheck.gate.routing import candidate_routes
from circuitcheck.gate.summarize import summarize
from circuitcheck.gate.survival import compare_features, read_like
from circuitcheck.stats.drift import relative_drift
from circuitcheck.stats.estimate import LEVEL
from circuitcheck.stats.first_order import first_order, fragility


def measure(
    candidate: Runtime,
    baseline: Recording,
    *,
    advance: Advance = silent,
    memory: int | None = None,
    execute: Execute | None = None,
    reference: Runtime | None = None,
    curves: bool = True,
    prompts: int | None = None,
    level: float = LEVEL,
) -> Measurement:
    """Measures a candidate on a baseline's prompts.

    Repair is activation patching (Meng et al. 2022, arXiv:2202.05262) with the reference's write; agreement of rankings
    is rank-biased overlap (Webber, Moffat and Zobel 2010, doi 10.1145/1852102.1852106).

    Args:
        candidate: the model that is about to be released; it is left as it was found.
        baseline: the recorded reference circuit, which holds the prompts and says what to measure.
        advance: called with the number of (unit, prompt) rows that were just finished.
        memory: budget in bytes for what the sweeps keep beside the model; by default a share of what is free.
        execute: carries out patches in another way than all at once; see `circuitcheck.gate.parts`.
        reference: the reference itself, where it is at hand, for integrated gradients; nothing else needs it.
        curves: False leaves out the repair curves, which take most of the time with a damaged candidate and on which
            no criterion depends; the diagnosis then says `damage`, and not where.
        prompts: how many prompts of the task are looked at, the first ones; all by default.
        level: how often each interval is to hold the truth.

    Returns:
        The measures, or why nothing can be said: a task that the reference does not solve is never measured.

    Raises:
        CandidateError: another architecture or shape, or values that are not finite.
        SiteError: the hooks fail a proof on the candidate.
        ModelError: a prompt is longer than the candidate has positions.
        ModelChangedError: the measurement changed the candidate.
        ConfigurationError: the baseline's metric is a function that is not known here.
        MemoryBudgetError: one prompt and unit alone does not fit the budget or the machine.
    """
    require_comparable(candidate, baseline)
    reason, circuit = baseline.incompetence, None
    work = Work(memory, advance, execute=execute, about=held_against(baseline))
    looked_at = len(baseline.task.pairs) if prompts is None else prompts
    baseline = baseline.first(looked_at)
    if reason is None:
        candidate = made_ready(candidate, baseline)
        observed = observe(candidate, baseline, work, curves=curves, level=level)
        circuit = summarize(baseline, observed, candidate.facts.precision, _integrated(baseline, observed, reference))
    return _measurement(candidate, baseline, looked_at, reason, circuit, work)


def held_against(baseline: Recording) -> dict[str, str]:
    """What a candidate's numbers depend on beside itself: the reference, and what was measured of it."""
    return {"reference": baseline.fingerprints["weights"], "spec": baseline.spec.fingerprint}


def made_ready(candidate: Runtime, baseline: Recording) -> Runtime:
    """The candidate with the baseline's metric and units, and with what its kernels need."""
    ready = read_like(candidate.measured_by(baseline.spec.metric).probed(baseline.task.prompts()), baseline)
    return ready.narrowed(baseline.layout) if baseline.population is not None else ready


def observe(
    candidate: Runtime, baseline: Recording, work: Work, *, curves: bool = True, level: float = LEVEL
) -> Observation:
    """Everything about a candidate that is ready, as far as it needs a forward pass: clean ones, ablations, repairs."""
    everything, solved, spec = baseline.task.prompts(), baseline.solved_prompts, baseline.spec
    patched = work.patching(candidate)
    with candidate.unchanged():
        # First, because a proof by numbers that are not finite blames the hooks.
        said = baseline.next_token
        if said is None:
            metric, next_token = candidate.metric(solved), None
        else:
            metric, next_token = candidate.metric_and_next_token(solved, said.tokens)
        preferred = preference(candidate, solved, metric)
        _require_finite(candidate, baseline, "logit differences", preferred)
        _require_finite(candidate, baseline, "values of the metric", metric)
        candidate.prove(everything, spec.unit)
        population = compare_population(baseline, candidate, work.memory)
        features = compare_features(baseline, candidate)
        routes = candidate_routes(candidate, baseline, work.notes)
        written = compare_writes(baseline, candidate, _values_of(candidate, baseline))
        drift, expected = relative_drift(written.sums), first_order(baseline.gradient, baseline.z, written.moved)
        singles = tuple(written.of_candidate((unit,)) for unit in baseline.measured)
        ablated = patched(baseline.ablated_on, Patch(spec.unit, singles, spec.ablation, spec.ablate_at), work)
        _require_finite(candidate, baseline, f"logit differences under {spec.ablation} ablation", ablated)
        damage = part_damage(baseline, metric)
        plan = plan_repair(baseline, drift, fragility(expected), with_orders=curves and damage == "damage")
        sets = tuple(written.of_candidate(units) for units in plan.sets)
        repaired = patched(baseline.part, Patch(spec.unit, sets, written.repair_in_place), work)
        _require_finite(candidate, baseline, "logit differences under repair", repaired)
        places = plan_placing(baseline, candidate, baseline.of_part(metric), work) if curves else None
        modules = None
        if places is not None:
            alone = patched(places.prompts, places.each_alone, work)
            order = places.order(alone)
            together = patched(places.prompts, places.more_and_more(order), work)
            modules = Repaired(alone, order, together, places.drift)
    return Observation(
        metric,
        preferred,
        next_token,
        ablated,
        written,
        expected,
        damage,
        plan,
        repaired,
        population,
        features,
        routes,
        modules,
        level,
    )


def _values_of(candidate: Runtime, baseline: Recording) -> Activations:
    """Its units' values on the prompts and positions that the baseline keeps."""
    values = candidate.activations(baseline.part, baseline.spec.unit)
    return values if baseline.spec.positions == "all" else values.answer_position()


def _integrated(baseline: Recording, observed: Observation, reference: Runtime | None) -> NDArray[np.float64] | None:
    if reference is None:
        return None
    reference = reference.measured_by(baseline.spec.metric)
    reference = reference.narrowed(baseline.layout) if baseline.population or baseline.features else reference
    return integrated_damage(reference, baseline.part, baseline.spec.unit, baseline.z, observed.written.moved)


def _measurement(
    candidate: Runtime, baseline: Recording, prompts: int, reason: str | None, circuit: Circuit | None, work: Work
) -> Measurement:
    facts = candidate.facts
    return Measurement(
        model=baseline.model,
        candidate=facts.precision if facts.name == baseline.model else facts.name,
        precision=facts.precision,
        task=baseline.task.name,
        unit=baseline.spec.unit,
        metric=baseline.spec.metric,
        prompts=prompts,
        solved=len(baseline.solved),
        part=len(baseline.z.index),
        clusters=len(set(baseline.solved_clusters)),
        inconclusive=reason,
        circuit=circuit,
        noise_floor=baseline.noise_floor,
        fingerprints=baseline.all_fingerprints,
        environment=facts.environment,
        census=facts.census,
        batch_size=facts.batch_size,
        notes=(*facts.notes, *baseline.notes, *_notes(baseline), *work.notes),
    )


def require_comparable(candidate: Runtime, baseline: Recording) -> None:
    """Refuses a candidate whose units are not the reference's.

    Raises:
        CandidateError: names every difference.
        SiteError: its units cannot be found.
    """
    facts, layout = candidate.facts, candidate.layout(baseline.spec.unit)
    theirs, ours = facts.architecture, baseline.architecture
    differences = [
        f"{key} is {theirs[key]}, the reference's is {ours.get(key)}" for key in theirs if theirs[key] != ours.get(key)
    ]
    recorded = (baseline.layout if baseline.population is None else baseline.population.layout).whole
    is_same = layout == recorded or (baseline.layout.is_some and {*recorded.groups} <= {*layout.whole.groups})
    if not is_same and not differences:
        kind = baseline.spec.unit
        differences = [f"it has {len(layout.units)} {kind}s, the reference {len(recorded.units)}"]
    needed = baseline.largest_token + 1
    if facts.vocabulary is not None and facts.vocabulary < needed:
        differences.append(f"it knows {facts.vocabulary} token ids, the prompts need {needed}")
    if differences:
        raise CandidateError(
            f"candidate {facts.name} cannot be compared with {baseline.model}: {'; '.join(differences)}. "
            "Give a candidate that was made from the reference."
        )


def _require_finite(candidate: Runtime, baseline: Recording, what: str, values: NDArray[Any]) -> None:
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        facts = candidate.facts
        raise CandidateError(
            f"candidate {facts.name} ({facts.precision}) on task {baseline.task.name!r}: {wrong} of {values.size} "
            f"{what} are NaN or infinite. Its weights or activations overflow; it cannot be released like this."
        )


def _notes(baseline: Recording) -> list[str]:
    notes = []
    if baseline.spec.positions == "answer":
        notes.append(
            "The baseline keeps the answer position only: drift, gradients and repair say nothing about earlier "
            "positions."
        )
    if len(baseline.z.index) < len(baseline.solved):
        notes.append(
            f"Drift, gradients and repair use the first {len(baseline.z.index)} of {len(baseline.solved)} solved "
            "prompts."
        )
    return notes
