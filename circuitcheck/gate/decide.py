"""The gate as its users know it: a candidate is measured on as many prompts as it takes to decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.results import Verdict
from circuitcheck.core.runtime import Runtime
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.stats.estimate import LEVEL
from circuitcheck.verdict.limits import Limits, limits_for

FEWEST = 64
"""Prompts of the first look: with fewer, not even a perfect candidate could pass at the level that looks cost."""


def looks(prompts: int) -> tuple[int, ...]:
    """How many prompts each look takes: twice as many as the one before, and all at the last."""
    earlier = () if prompts // 2 < FEWEST else looks(prompts // 2)
    return (*earlier, prompts)


def decide(
    candidate: Runtime,
    baseline: Recording,
    limits: Callable[[str], Limits] | None = None,
    **options: Any,
) -> Verdict:
    """The verdict on a candidate: on few prompts, and on more of the baseline's while it is INCONCLUSIVE.

    Every look is paid for: each of at most k has the k-th part of the error that one alone might have (Bonferroni), so
    that all together are wrong no more often than one look at all prompts is.

    Args:
        candidate: the model that is about to be released.
        baseline: the recorded reference circuit.
        limits: gives those that hold for a precision; by default those of `limits_for`.
        **options: as `measure` takes them.

    Returns:
        The verdict of the last look; its notes say how many prompts it took.

    Raises:
        CircuitcheckError: as `measure` and `judge`.
    """
    planned = looks(len(baseline.task.pairs))
    level = 1 - (1 - LEVEL) / len(planned)
    for prompts in planned:
        measurement = measure(candidate, baseline, prompts=prompts, level=level, **options)
        held = limits(measurement.precision) if limits else limits_for(measurement.precision, measurement.task)
        verdict = judge(measurement, held)
        if verdict.word != "INCONCLUSIVE" or measurement.circuit is None:
            break
    if len(planned) == 1:
        return verdict
    number = planned.index(prompts) + 1
    note = (
        f"Decided on {prompts} of {planned[-1]} prompts, at look {number} of at most {len(planned)}; "
        f"so that all looks together err no more often than one, intervals are at {level:.1%}."
    )
    return replace(verdict, measurement=replace(measurement, notes=(*measurement.notes, note)))
