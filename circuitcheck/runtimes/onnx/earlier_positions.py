"""Whether a pass may go on behind keys and values of earlier positions, which no set of units changes.

What a graph puts out as keys and values goes back in as a past, and only the positions behind it are run. Where
activations are rounded by a scale of all positions together, that is another computation; it is tried, not assumed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import ModelError
from circuitcheck.core.runtime import Facts
from circuitcheck.runtimes.onnx.row_company import off_and_allowed
from circuitcheck.runtimes.onnx.runner import Edit, Rows, Runner

ANY = sys.maxsize
"""As many positions as there are."""

PROBED = 8
"""Prompts on which it is tried."""

FLIPPED = 0.01
"""How far logits may be off on less than half of them, in shares of the largest: kernels that round activations to
integers round one to the next where its sum differs in the last bit."""


def most_behind(runner: Runner, facts: Facts, ids: NDArray[np.int64]) -> int:
    """How many last positions may run behind those before them: 0, 1 (some fused attention takes one), or any number.

    Logits of the last one must be the whole pass's within rounding, clean and with heads replaced there; activations
    that are rounded to integers may fall to another one on a few prompts.

    Args:
        runner: the model.
        facts: of which the batch size counts.
        ids: token ids of prompts of one length, `[batch, seq]`; the first ones are used.
    """
    seq = ids.shape[1]
    if not runner.network.states or runner.network.logits is None or seq < 2:
        return 0
    few = ids[: facts.batch_size or PROBED]
    if not _is_the_same(runner, few, 1):
        return 0
    return ANY if seq > 2 and _is_the_same(runner, few, seq - seq // 2) else 1


def _is_the_same(runner: Runner, ids: NDArray[np.int64], last: int) -> bool:
    before, first = ids.shape[1] - last, runner.ports("head")[0].group
    at_last = np.arange(ids.shape[1])[None, :, None, None] == ids.shape[1] - 1
    ones = np.ones((1, 1, first.count, first.width), np.float32)
    edits: list[tuple[Mapping[int, Edit], Mapping[int, Edit]]] = [
        ({}, {}),
        ({0: (at_last, ones)}, {0: (at_last[:, before:], ones)}),
    ]
    try:
        past = runner.states(ids[:, :before], "head")
        for whole, behind in edits:
            expected = runner.last_logits(Rows(ids, edits=whole))
            found = runner.last_logits(Rows(ids[:, before:], edits=behind, past=past))
            kind = np.dtype(runner.network.logits_kind)
            off, allowed = np.transpose([off_and_allowed(*row, kind) for row in zip(expected, found, strict=True)])
            if not (np.median(off) <= allowed[0] and off.max() <= FLIPPED):
                return False
    except ModelError:  # the library runs it on whole prompts alone
        return False
    return True
