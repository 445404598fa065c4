"""Whether a golden baseline still speaks of what is measured now."""

from __future__ import annotations

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.errors import StaleBaselineError
from circuitcheck.core.prompts import Task
from circuitcheck.core.specification import MeasurementSpec

WAY_OUT = (
    "roundings may differ. Add --circuit-against-base to measure the reference in the same run, or --circuit-calibrate "
    "to measure the noise floor here."
)

SHOWN = 12
"""Characters of a fingerprint that messages show."""


def require_fresh(
    baseline: Recording, *, task: Task, spec: MeasurementSpec, tokenizer: str | None, weights: str | None = None
) -> None:
    """Refuses a baseline of other weights, another tokenizer, other prompts or another measurement spec.

    Args:
        baseline: what was recorded.
        task: the prompts of this run.
        spec: what this run measures.
        tokenizer: the candidate's tokenizer fingerprint; None where it cannot be compared.
        weights: fingerprint of the weights that the candidate is made from; None where they cannot be the reference's,
            as in a saved release.

    Raises:
        StaleBaselineError: says everything that differs, with its old and new value.
    """
    recorded = baseline.all_fingerprints
    present = {"prompts": task.fingerprint}
    present |= {name: value for name, value in (("tokenizer", tokenizer), ("weights", weights)) if value is not None}
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
    if then["device"] != now["device"]:
        notes.append(f"The baseline was recorded on {then['device']}, this run is on {now['device']}: {WAY_OUT}")
    if now["instruction_set"] not in baseline.noise:
        notes.append(
            f"The baseline's noise floor was seen on {', '.join(baseline.noise) or 'no machine'}, this machine runs "
            f"{now['instruction_set']}: {WAY_OUT}"
        )
    old, new = then["libraries"], now["libraries"]
    assert isinstance(new, dict)
    changed = [f"{name} {old[name]} -> {new.get(name, 'none')}" for name in sorted(old) if old[name] != new.get(name)]
    if changed:
        notes.append(f"The baseline was recorded with other versions: {', '.join(changed)}.")
    return notes
