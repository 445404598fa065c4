"""What writes golden baselines, on request only: accepting a reference, and calibrating its noise floor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from circuitcheck.baseline.baseline import Baseline, save_all
from circuitcheck.baseline.diff import describe_change, describe_new, describe_roundings
from circuitcheck.baseline.encoding import encode
from circuitcheck.baseline.names import baseline_file
from circuitcheck.baseline.noise_floor import Change
from circuitcheck.core.errors import BaselineError, CircuitcheckError
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.prompts import Task
from circuitcheck.core.runtime import Execute, Runtime
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.calibrate import calibrate
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
from circuitcheck.verdict.limits import limits_for

Request = Literal["new", "changed", "all"]


@dataclass(frozen=True)
class Acceptance:
    """What became of one task's baseline.

    Attributes:
        task: its name.
        outcome: one line: accepted, unchanged, or left alone.
        details: what changed, line by line.
        baseline: what `write` is to write; None where nothing is.
    """

    task: str
    outcome: str
    details: tuple[str, ...] = ()
    baseline: Baseline | None = None


def write(acceptances: Iterable[Acceptance], folder: Path) -> None:
    """Writes what was accepted of one reference, all of it or nothing.

    Raises:
        BaselineError: it cannot be written; the baselines are as they were.
    """
    baselines = [acceptance.baseline for acceptance in acceptances if acceptance.baseline is not None]
    if baselines:
        save_all(baselines, folder)


def accept(
    reference: Runtime,
    task: Task,
    spec: MeasurementSpec,
    folder: Path,
    request: Request,
    reason: str,
    *,
    limits: Mapping[str, Any] | None = None,
    advance: Advance = silent,
    memory: int | None = None,
    execute: Execute | None = None,
) -> Acceptance:
    """Records one task, if the request covers it; its baseline is then to be written, with all others, by `write`.

    Noise that was calibrated stays, of a reference that did not change; a baseline that differs in nothing else is left
    as it is.

    Args:
        reference: the model.
        task: the prompts.
        spec: what to measure.
        folder: where the reference's baselines lie.
        request: `new` records what is missing, `changed` replaces what differs, `all` does both.
        reason: why the reference is accepted.
        limits: overrides, for what the verdict on it would have been.
        advance: called with the number of (unit, prompt) rows that were just finished.
        memory: budget in bytes for what the sweeps keep beside the model.
        execute: carries out patches in another way than all at once; see `circuitcheck.gate.parts`.

    Raises:
        CircuitcheckError: the reference cannot be recorded.
    """
    file = baseline_file(folder, task.name, spec.unit)
    exists = file.exists()
    if request == "new" and exists:
        return Acceptance(task.name, f"left alone: {file} exists (use --circuit-accept=changed to replace it)")
    if request == "changed" and not exists:
        return Acceptance(task.name, f"left alone: {file} does not exist (use --circuit-accept=new to record it)")
    old, fault = _load(file) if exists else (None, "")
    new = record_reference(reference, task, spec, reason=reason, advance=advance, memory=memory, execute=execute)
    if old is not None and old.measured_with == new.measured_with:
        if _same_but_for_noise(old, new):
            return Acceptance(task.name, f"unchanged: {file}")
        new = replace(new, noise=_merged(old.noise, new.noise))
    details = describe_new(new)
    if old is not None:
        would_have_been = _would_have_been(reference, old, limits or {}, memory)
        details = [*describe_change(old, new), would_have_been, *describe_roundings(new)]
    if fault:
        details.insert(0, f"the old baseline could not be read: {fault}")
    return Acceptance(task.name, f"accepted: {file} ({reason})", tuple(details), new)


def accept_calibration(
    reference: Runtime,
    baseline: Baseline,
    folder: Path,
    reload: Callable[[], Runtime],
    *,
    memory: int | None = None,
    execute: Execute | None = None,
) -> Acceptance:
    """Measures the noise floor of a recorded reference on this machine; its baseline is then to be written by `write`.

    Raises:
        CircuitcheckError: it cannot be measured.
    """
    if not baseline.solved:
        return Acceptance(baseline.task.name, "left alone: the reference solves none of its prompts")
    calibrated = calibrate(reference, baseline, reload=reload, memory=memory, execute=execute)
    where = reference.facts.environment["instruction_set"]
    file = baseline_file(folder, baseline.task.name, baseline.spec.unit)
    lines = [f"{source}: {_change(change)}" for source, change in calibrated.noise[where].items()]
    floor = f"noise floor over all sources: {_change(calibrated.noise_floor)}"
    return Acceptance(baseline.task.name, f"calibrated on {where}: {file}", (*lines, floor), calibrated)


def _same_but_for_noise(old: Baseline, new: Baseline) -> bool:
    return encode(replace(new, noise=old.noise, reason=old.reason)) == encode(old)


def _merged(old: Mapping[str, dict[str, Change]], new: Mapping[str, dict[str, Change]]) -> dict[str, dict[str, Change]]:
    """The noise of all instruction sets, with what was measured now in place of what was measured before."""
    return {where: {**old.get(where, {}), **new.get(where, {})} for where in {**old, **new}}


def _change(change: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in change.items())


def _load(file: Path) -> tuple[Baseline | None, str]:
    try:
        return Baseline.load(file), ""
    except BaselineError as error:
        return None, str(error)


def _would_have_been(reference: Runtime, old: Baseline, limits: Mapping[str, Any], memory: int | None) -> str:
    """The verdict on the new reference, had it been a float32 candidate under the old baseline."""
    prefix = "judged by the old baseline, the new reference would have been"
    try:
        verdict = judge(measure(reference, old, memory=memory), limits_for("f32", old.task.name, limits))
    except CircuitcheckError as error:
        return f"{prefix} refused: {error}"
    missed = [
        f"{criterion.name} {criterion.value.value:.3g} (limit {criterion.limit:g})"
        for criterion in verdict.criteria
        if criterion.verdict != "PASS"
    ]
    return f"{prefix} {verdict.word}" + (f": {', '.join(missed)}" if missed else "")
