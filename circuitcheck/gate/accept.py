"""What writes golden baselines, on request only: accepting a reference, and calibrating its noise floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from circuitcheck.core.errors import BaselineError, CircuitcheckError
from circuitcheck.plugin.settings import Settings

if TYPE_CHECKING:
    from circuitcheck.baseline.baseline import Baseline
    from circuitcheck.core.progress import Advance
    from circuitcheck.core.prompts import Task
    from circuitcheck.core.specification import MeasurementSpec
    from circuitcheck.runtimes.pytorch.hooked import HookedModel


@dataclass(frozen=True)
class Acceptance:
    """What became of one task's baseline.

    Attributes:
        task: its name.
        outcome: one line: accepted, unchanged, or left alone.
        details: what changed, line by line.
    """

    task: str
    outcome: str
    details: tuple[str, ...] = ()


def accept_baseline(
    reference: HookedModel,
    task: Task,
    spec: MeasurementSpec,
    settings: Settings,
    folder: Path,
    *,
    advance: Advance,
    memory: int | None = None,
) -> Acceptance:
    """Records one task, if the request covers it, and writes its baseline only after everything succeeded.

    Raises:
        CircuitcheckError: the reference cannot be recorded; nothing was written.
    """
    from circuitcheck.baseline.baseline import baseline_files
    from circuitcheck.baseline.diff import describe_change, describe_new
    from circuitcheck.baseline.encoding import encode
    from circuitcheck.gate.record import record_reference

    file = baseline_files(folder, task.name)[0]
    exists = any(path.exists() for path in baseline_files(folder, task.name))
    if settings.accept == "new" and exists:
        return Acceptance(task.name, f"left alone: {file} exists (use --circuit-accept=changed to replace it)")
    if settings.accept == "changed" and not exists:
        return Acceptance(task.name, f"left alone: {file} does not exist (use --circuit-accept=new to record it)")
    old, fault = _load(file) if exists else (None, None)
    reason = old.reason if old else settings.reason
    recorded = record_reference(reference, task, spec, reason=reason, advance=advance, memory=memory)
    if old is not None and encode(recorded) == encode(old):
        return Acceptance(task.name, f"unchanged: {file}")
    from dataclasses import replace

    new = replace(recorded, reason=settings.reason)
    details = (
        describe_new(new) if old is None else [*describe_change(old, new), _would_have_been(reference, old, settings)]
    )
    if fault:
        details.insert(0, f"the old baseline could not be read: {fault}")
    new.save(folder)
    return Acceptance(task.name, f"accepted: {file} ({settings.reason})", tuple(details))


def calibrate_baseline(
    reference: HookedModel,
    baseline: Baseline,
    folder: Path,
    reload: Callable[[], HookedModel],
    *,
    memory: int | None = None,
) -> Acceptance:
    """Measures the noise floor of a recorded reference on this machine, and stores it in its baseline.

    Raises:
        CircuitcheckError: it cannot be measured or written; the baseline is as it was.
    """
    from circuitcheck.gate.calibrate import calibrate
    from circuitcheck.runtimes.pytorch.environment import environment

    if not baseline.solved:
        return Acceptance(baseline.task.name, "left alone: the reference solves none of its prompts")
    calibrated = calibrate(reference, baseline, reload=reload, memory=memory)
    where = environment(reference.device)["instruction_set"]
    file = calibrated.save(folder)[0]
    lines = [f"{source}: {_change(change)}" for source, change in calibrated.noise[where].items()]
    floor = f"noise floor over all sources: {_change(calibrated.noise_floor)}"
    return Acceptance(baseline.task.name, f"calibrated on {where}: {file}", (*lines, floor))


def _change(change: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in change.items())


def _load(file: Path) -> tuple[Baseline | None, str | None]:
    from circuitcheck.baseline.baseline import Baseline

    try:
        return Baseline.load(file), None
    except BaselineError as error:
        return None, str(error)


def _would_have_been(reference: HookedModel, old: Baseline, settings: Settings) -> str:
    """The verdict on the new reference, had it been a float32 candidate under the old baseline."""
    from circuitcheck.gate.judge import judge
    from circuitcheck.gate.measure import measure
    from circuitcheck.verdict.limits import limits_for

    prefix = "judged by the old baseline, the new reference would have been"
    try:
        measurement = measure(reference, old)
        verdict = judge(measurement, limits_for("f32", old.task.name, settings.limits))
    except CircuitcheckError as error:
        return f"{prefix} refused: {error}"
    missed = [
        f"{criterion.name} {criterion.value.value:.3g} (limit {criterion.limit:g})"
        for criterion in verdict.criteria
        if criterion.verdict != "PASS"
    ]
    return f"{prefix} {verdict.word}" + (f": {', '.join(missed)}" if missed else "")
