"""Whether a prompt's logits depend on what runs beside it: an activation scale for a whole batch makes them do so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.runtime import Facts
from circuitcheck.runtimes.onnx.runner import Runner

SUMMED_STEPS, STORED_STEPS = 64, 8
"""Rounding errors that explain a difference, relative to the largest logit: of float32, in which sums are taken, and of
the type that logits are kept in."""

MATES = 3
"""Prompts of the probe: one that is looked at, and two that take turns beside it."""

WITHIN_ROUNDING = (
    "A prompt's logits vary with the size of its batch, within rounding; batch shapes and order are the same in every "
    "pass that is compared."
)


def with_batching(runner: Runner, facts: Facts, ids: NDArray[np.int64]) -> Facts:
    """The facts, with the batch size that the model has to be measured at, and a note where anything varied.

    Args:
        runner: the model.
        facts: what is known of it.
        ids: token ids of prompts of one length, `[batch, seq]`; the first three are used.
    """
    if facts.batch_size is not None:
        return facts
    first, one, other = (np.roll(ids[number % len(ids)], number // len(ids))[None] for number in range(MATES))
    beside = runner.probe(np.concatenate([first, one]))[0]
    if not np.array_equal(beside, runner.probe(np.concatenate([first, other]))[0]):
        return _alone(facts, "a prompt's logits depend on the other prompts of its batch")
    seen = {
        "batch size": runner.probe(first)[0],
        "a larger batch": runner.probe(np.concatenate([first, one, other, one]))[0],
    }
    largest = np.abs(beside.astype(np.float64)).max() or 1.0
    off = {name: float(np.abs(beside.astype(np.float64) - values).max() / largest) for name, values in seen.items()}
    name = max(off, key=lambda key: off[key])
    stored = np.finfo(beside.dtype).eps if np.issubdtype(beside.dtype, np.floating) else 0.0
    allowed = SUMMED_STEPS * np.finfo(np.float32).eps + STORED_STEPS * stored
    if not off[name] <= allowed:
        return _alone(
            facts, f"a prompt's logits depend on {name} by {off[name]:.2g} of the largest (rounding: {allowed:.2g})"
        )
    return facts if off[name] == 0 else replace(facts, notes=(*facts.notes, WITHIN_ROUNDING))


def _alone(facts: Facts, reason: str) -> Facts:
    return replace(facts, batch_size=1, notes=(*facts.notes, f"Measured one row at a time, because {reason}."))
