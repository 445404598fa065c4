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
    off = {name: off_and_allowed(beside, values, beside.dtype)[0] for name, values in seen.items()}
    name = max(off, key=lambda key: off[key])
    allowed = off_and_allowed(beside, beside, beside.dtype)[1]
    if not off[name] <= allowed:
        return _alone(
            facts, f"a prompt's logits depend on {name} by {off[name]:.2g} of the largest (rounding: {allowed:.2g})"
        )
    return facts if off[name] == 0 else replace(facts, notes=(*facts.notes, WITHIN_ROUNDING))


def off_and_allowed(
    expected: NDArray[np.floating], found: NDArray[np.floating], kind: np.dtype[np.floating]
) -> tuple[float, float]:
    """The largest difference of some logits, in shares of the largest of them, and what rounding explains.

    Args:
        expected: logits.
        found: the same, computed in another way.
        kind: the type that the model keeps them in.
    """
    largest = np.abs(expected.astype(np.float64)).max() or 1.0
    stored = np.finfo(kind).eps if np.issubdtype(kind, np.floating) else 0.0
    off = float(np.abs(expected.astype(np.float64) - found).max() / largest)
    return off, SUMMED_STEPS * float(np.finfo(np.float32).eps) + STORED_STEPS * float(stored)


def _alone(facts: Facts, reason: str) -> Facts:
    return replace(facts, batch_size=1, notes=(*facts.notes, f"Measured one row at a time, because {reason}."))
