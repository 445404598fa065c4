"""A candidate whose truth is known before anything is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from circuitcheck.runtimes.pytorch.hooked import HookedModel

Truth = Literal["benign", "fault", "minor", "unused-head", "control"]


@dataclass(frozen=True)
class LabelledCandidate:
    """A candidate, how to build it, and what a gate should say about it.

    Attributes:
        name: different for every candidate; it fixes all random numbers, so that the same name builds the same model.
        kind: `rerun`, `precision` or `fault`.
        family: candidates that belong in one row of a table, such as `int4-rtn g32` or `head pruned, healed`.
        truth: `benign`: only quantized, or the reference again; `fault`: takes at least a quarter of the largest head's
            importance from a task's circuit; `minor`: takes less, but from heads that a task uses; `unused-head`: in
            heads that no task uses; `control`: trained as faults are, but without a fault.
        tasks: those whose gate is to catch it.
        precision: what it claims to be, whose limits on drift apply.
        build: makes the model, ready to be measured.
        severity: share of the largest head's importance that a fault takes from the task that it hurts most, known
            from the reference; 0 for benign candidates. A projection at few bits is a fault wherever it touches a
            circuit, also where its severity is below a quarter.
        run: training that several candidates share; None where there is none.
        threads: computing threads that it is measured with; None leaves them as they are.
        order: seed of the order that the prompts are measured in; None keeps the task's.
    """

    name: str
    kind: str
    family: str
    truth: Truth
    tasks: tuple[str, ...]
    precision: str
    build: Callable[[], HookedModel]
    severity: float = 0.0
    run: str | None = None
    threads: int | None = None
    order: int | None = None
