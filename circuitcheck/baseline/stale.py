"""Whether a golden baseline still speaks of what is measured now."""

from __future__ import annotations

from circuitcheck.baseline.recording import Recording
from circuitcheck.errors import StaleBaselineError
from circuitcheck.spec import MeasurementSpec
from circuitcheck.tasks.pairs import Task

SHOWN = 12
"""Characters of a fingerprint that messages show."""


def require_fresh(
    baseline: Recording, *, task: Task, spec: MeasurementSpec, tokenizer: str, weights: str | None = None
) -> None:
    """Refuses a baseline of other weights, another tokenizer, other prompts or another measurement spec.

    Args:
        baseline: what was recorded.
        task: the prompts of this run.
        spec: what this run measures.
        tokenizer: the candidate's tokenizer fingerprint.
        weights: fingerprint of the weights that the candidate is made from; None where they cannot be the reference's,
            as in a saved release.

    Raises:
        StaleBaselineError: says everything that differs, with its old and new value.
    """
    recorded = baseline.all_fingerprints
    present = {"tokenizer": tokenizer, "prompts": task.fingerprint}
    if weights is not None:
        present["weights"] = weights
    differences = [
        f"{name}: recorded {recorded[name][:SHOWN]}, now {value[:SHOWN]}"
        for name, value in sorted(present.items())
        if recorded[name] != value
    ]
    old, new = baseline.spec.to_json(), spec.to_json()
    differences += [
        f"measurement spec, {key}: recorded {old[key]}, now {new[key]}" for key in old if old[key] != new[key]
    ]
    if differences:
        listing = "\n  ".join(differences)
        raise StaleBaselineError(
            f"the golden baseline of {baseline.model} on {baseline.task.name!r} is stale, so nothing was compared:\n"
            f"  {listing}"
        )


def environment_notes(baseline: Recording, now: dict[str, object]) -> list[str]:
    """What differs between the machine that recorded the baseline and this one, in words; results may differ by it."""
    then = baseline.environment
    notes = []
    for key in ("device", "instruction_set"):
        if then[key] != now[key]:
            notes.append(
                f"The baseline was recorded on {then[key]}, this machine runs {now[key]}: roundings may differ."
            )
    old, new = then["libraries"], now["libraries"]
    assert isinstance(new, dict)
    changed = [f"{name} {old[name]} -> {new[name]}" for name in sorted(old) if old[name] != new.get(name)]
    if changed:
        notes.append(f"The baseline was recorded with other versions: {', '.join(changed)}.")
    return notes
