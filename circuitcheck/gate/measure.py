"""The gate's pipeline: a candidate and a golden baseline in, measures out. The reference is never loaded."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.errors import CandidateError
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.results import Measurement
from circuitcheck.diagnostics.integrated_gradients import integrated_damage
from circuitcheck.gate.observe import Observation, observe
from circuitcheck.gate.summarize import summarize
from circuitcheck.runtimes.pytorch.batching import needs_probe, with_batching
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.proofs import measuring


def measure(
    candidate: HookedModel,
    baseline: Recording,
    *,
    advance: Advance = silent,
    memory: int | None = None,
    reference: HookedModel | None = None,
    curves: bool = True,
) -> Measurement:
    """Measures a candidate on a baseline's prompts.

    Repair is activation patching (Meng et al. 2022, arXiv:2202.05262) with the reference's z; agreement of rankings is
    rank-biased overlap (Webber, Moffat and Zobel 2010, doi 10.1145/1852102.1852106). Intervals are at 95 %.

    Args:
        candidate: the model that is about to be released; it is left as it was found.
        baseline: the recorded reference circuit, which holds the prompts and says what to measure.
        advance: called with the number of (head, prompt) rows that were just finished.
        memory: budget in bytes for what the sweeps keep beside the model; by default a share of what is free.
        reference: the reference itself, where it is at hand, for integrated gradients; nothing else needs it.
        curves: False leaves out the repair curves, which take most of the time with a damaged candidate and on which
            no criterion depends; the diagnosis then says `damage`, and not where.

    Returns:
        The measures, or why nothing can be said: a task that the reference does not solve is never measured.

    Raises:
        CandidateError: another architecture or shape, or values that are not finite.
        SiteError: the hooks fail a proof on the candidate.
        ModelChangedError: the measurement changed the candidate.
        MemoryBudgetError: one prompt and head alone does not fit the budget or the machine.
    """
    require_comparable(candidate, baseline)
    reason = baseline.incompetence
    candidate = candidate if reason else _probed(candidate, baseline)
    observed = None if reason else observe(candidate, baseline, advance, memory, curves=curves)
    return Measurement(
        model=baseline.model,
        candidate=candidate.precision if candidate.name == baseline.model else candidate.name,
        precision=candidate.precision,
        task=baseline.task.name,
        prompts=len(baseline.task.pairs),
        solved=len(baseline.solved),
        part=len(baseline.z.index),
        clusters=len(set(baseline.solved_clusters)),
        inconclusive=reason,
        circuit=None if observed is None else summarize(baseline, observed, _integrated(baseline, observed, reference)),
        noise_floor=baseline.noise_floor,
        fingerprints=baseline.all_fingerprints,
        census=candidate.census,
        batch_size=candidate.batch_size,
        notes=(*candidate.notes, *baseline.notes, *_notes(baseline), *(observed.notes if observed else ())),
    )


def _probed(candidate: HookedModel, baseline: Recording) -> HookedModel:
    """With the batch size that its kernels need."""
    if not needs_probe(candidate):
        return candidate
    with measuring(candidate):
        return with_batching(candidate, baseline.task.batches()[0].clean.to(candidate.device))


def _integrated(baseline: Recording, observed: Observation, reference: HookedModel | None) -> NDArray[Any] | None:
    if reference is None:
        return None
    reference = reference.measured_by(baseline.spec.metric)
    return integrated_damage(reference, baseline.task, baseline.z, observed.z)


def require_comparable(candidate: HookedModel, baseline: Recording) -> None:
    """Refuses a candidate whose heads are not the reference's.

    Raises:
        CandidateError: names every difference.
    """
    theirs, ours = candidate.architecture, baseline.architecture
    differences = [
        f"{key} is {theirs[key]}, the reference's is {ours.get(key)}" for key in theirs if theirs[key] != ours.get(key)
    ]
    if tuple(candidate.heads) != baseline.heads and not differences:
        differences = [f"it has {len(candidate.heads)} heads, the reference {len(baseline.heads)}"]
    known, needed = _known_tokens(candidate), _largest_token(baseline) + 1
    if known is not None and known < needed:
        differences.append(f"it knows {known} token ids, the prompts need {needed}")
    if differences:
        raise CandidateError(
            f"candidate {candidate.name} cannot be compared with {baseline.model}: {'; '.join(differences)}. "
            "Give a candidate that was made from the reference."
        )


def _known_tokens(candidate: HookedModel) -> int | None:
    """Rows of the token embedding; None where it cannot be seen."""
    path = candidate.structure.embedding
    return getattr(candidate.module.get_submodule(path), "num_embeddings", None) if path else None


def _largest_token(baseline: Recording) -> int:
    return max(
        token for pair in baseline.task.pairs for token in (*pair.clean, *pair.counterfactual, pair.answer, pair.foil)
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
