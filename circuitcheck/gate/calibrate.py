"""Calibration: the whole noise floor of a recorded reference, on the machine at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.gate.repeat import measured_noise
from circuitcheck.runtimes.pytorch.environment import environment
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.proofs import measuring
from circuitcheck.runtimes.pytorch.variations import all_sources


def calibrate(
    model: HookedModel,
    baseline: Baseline,
    *,
    reload: Callable[[], HookedModel] | None = None,
    memory: int | None = None,
) -> Baseline:
    """Runs the reference against what was recorded of it, under every source of noise.

    On another instruction set than the one that it was recorded on, the changes include what that makes of it.

    Args:
        model: the reference; it is left as it was found.
        baseline: what was recorded of it.
        reload: loads the reference anew; loading is not tried without it.
        memory: budget in bytes for what the sweeps keep beside the model.

    Returns:
        The baseline with this instruction set's noise; what other instruction sets gave is kept.

    Raises:
        ModelError: a change is not finite.
        ModelChangedError: the measurement changed the model.
    """
    where = environment(model.device)["instruction_set"]
    if not baseline.solved:
        return baseline
    part = len(baseline.z.index)
    with measuring(model):
        sources = measured_noise(
            model,
            baseline.task,
            baseline.spec,
            baseline.z,
            baseline.metric,
            baseline.effects(baseline.spec.ablation)[:, :part],
            all_sources(model, len(baseline.task.pairs), reload),
            heads=baseline.measured,
            solved=baseline.solved,
            memory=memory,
        )
    return replace(baseline, noise={**baseline.noise, where: sources})
