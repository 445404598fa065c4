"""Calibration: the whole noise floor of a recorded reference, on the machine at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.runtime import Execute, Runtime, Work
from circuitcheck.gate.measure import held_against
from circuitcheck.gate.repeat import measured_noise


def calibrate(
    model: Runtime,
    baseline: Baseline,
    *,
    reload: Callable[[], Runtime] | None = None,
    memory: int | None = None,
    execute: Execute | None = None,
) -> Baseline:
    """Runs the reference against what was recorded of it, under every source of noise.

    On another instruction set than the one that it was recorded on, the changes include what that makes of it.

    Args:
        model: the reference; it is left as it was found.
        baseline: what was recorded of it.
        reload: loads the reference anew; loading is not tried without it.
        memory: budget in bytes for what the sweeps keep beside the model.
        execute: carries out patches in another way than all at once; see `circuitcheck.gate.parts`.

    Returns:
        The baseline with this instruction set's noise; what other instruction sets gave is kept.

    Raises:
        ModelError: a change is not finite.
        ModelChangedError: the measurement changed the model.
    """
    if not baseline.solved:
        return baseline

    def ready(loaded: Runtime) -> Runtime:
        measured = loaded.measured_by(baseline.spec.metric)
        return measured.narrowed(baseline.layout) if baseline.population or baseline.features else measured

    model = ready(model)
    with model.unchanged():
        sources = measured_noise(
            model,
            baseline.spec,
            baseline.measured,
            baseline.z,
            baseline.reading,
            baseline.metric,
            baseline.solved_prompts,
            baseline.effects(baseline.spec.ablation),
            model.variations(baseline.task.prompts(), None if reload is None else lambda: ready(reload())),
            Work(memory, execute=execute, about=held_against(baseline)),
        )
    return replace(baseline, noise={**baseline.noise, model.facts.environment["instruction_set"]: sources})
