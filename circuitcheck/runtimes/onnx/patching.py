"""Other values in chosen units, and the metric after it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations
from circuitcheck.core.metric import Metric
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Batch, Prompts
from circuitcheck.core.runtime import Work
from circuitcheck.core.units import Unit
from circuitcheck.runtimes.onnx.metrics import metric_of
from circuitcheck.runtimes.onnx.runner import Edit, FloatArray, Rows, Runner


def replacements(
    runner: Runner, prompts: Prompts, patch: Patch, most: int | None
) -> Iterator[tuple[Batch, list[FloatArray]]]:
    """Each batch with what stands in for its units, for each group `[batch, seq, count, width]`, or one position.

    Args:
        runner: the model.
        prompts: the prompts.
        patch: of which the values and positions count.
        most: rows in one pass.
    """
    groups = [port.group for port in runner.ports(patch.kind)]
    # The mean is the whole task's, so that a prompt's ablated metric does not depend on which others are measured.
    means = _means(runner, prompts, patch.kind, most) if patch.values == "mean" and len(prompts) else []
    for batch in prompts.batches(most):
        positions = 1 if patch.positions == "answer" else batch.clean.shape[1]
        shape = (len(batch.index), positions)
        if isinstance(patch.values, Activations):
            yield batch, patch.values.rows(batch.index)
        elif patch.values == "mean":
            yield batch, [np.broadcast_to(mean[-positions:], (*shape, *mean.shape[1:])) for mean in means]
        elif patch.values == "resample":
            values = runner.read(batch.counterfactual, patch.kind)
            yield batch, [value[:, -positions:] for value in values]
        else:
            yield batch, [np.zeros((*shape, group.count, group.width), np.float32) for group in groups]


def _means(runner: Runner, prompts: Prompts, kind: str, most: int | None) -> list[FloatArray]:
    """Mean values of a whole task, for each group `[longest seq, count, width]`, aligned at the answer position."""
    batches = prompts.task.prompts(most=prompts.most).batches(most)
    longest = max(batch.clean.shape[1] for batch in batches)
    groups = [port.group for port in runner.ports(kind)]
    totals = [np.zeros((longest, group.count, group.width)) for group in groups]
    counts = np.zeros((longest, 1, 1))
    for batch in batches:
        for ids in (batch.clean, batch.counterfactual):
            counts[-ids.shape[1] :] += len(ids)
            for total, values in zip(totals, runner.read(ids, kind), strict=True):
                total[-ids.shape[1] :] += values.sum(0, dtype=np.float64)
    return [(total / counts).astype(np.float32) for total in totals]


def patched_metric(
    runner: Runner,
    quantity: Metric,
    prompts: Prompts,
    patch: Patch,
    work: Work,
    most: int | None,
    behind: int = 0,
) -> NDArray[np.float32]:
    """M of every prompt under every set of the patch, `[sets, prompts]`.

    Rows are (set, prompt) pairs; those of one pass are as many as fit. What a set does behind a past is told from a
    clean run behind it, and counted from m of the whole prompt.

    Args:
        runner: the model.
        quantity: what is measured.
        prompts: the prompts.
        patch: what is replaced.
        work: the budget, and who is told of progress.
        most: rows in one pass.
        behind: how many last positions may be run behind keys and values of those that no set changes.

    Raises:
        MemoryBudgetError: one row alone does not fit the budget.
    """
    longest = max((len(prompts.task.pairs[place].clean) for place in prompts.index), default=1)
    at_once = runner.rows(longest, work.memory, most)
    found = np.empty((len(patch.sets), len(prompts)), np.float32)
    for batch, values in replacements(runner, prompts, patch, at_once):
        columns = np.array([prompts.columns[place] for place in batch.index])
        seq = batch.clean.shape[1]
        starts = patch.starts(batch, values[0].shape[1])
        starts = np.where(seq - starts <= behind, starts, 0)
        for start in np.unique(starts):
            chosen = np.flatnonzero(starts == start)
            part = [batch.clean[chosen], batch.answer[chosen], batch.foil[chosen]]
            numbers = np.indices((len(patch.sets), len(chosen))).reshape(2, -1)
            given = [value[chosen, start - seq :] for value in values]
            past = runner.states(part[0][:, :start], patch.kind) if start else {}
            offset = np.zeros(len(chosen), np.float32)
            if start:
                runs = Rows(part[0], patch.kind), Rows(part[0][:, start:], patch.kind, past=past)
                whole, last = (metric_of(runner, quantity, run, *part[1:]) for run in runs)
                offset = whole - last
            size = runner.rows(seq - int(start), work.memory, most, int(start))
            for at in range(0, numbers.shape[1], size):
                sets, rows = numbers[:, at : at + size]
                ids, answer, foil = (column[rows] for column in part)
                edits = _edits(runner, patch, list(zip(sets, rows, strict=True)), given, seq - start)
                run = Rows(ids[:, start:], patch.kind, edits, {name: state[rows] for name, state in past.items()})
                found[sets, columns[chosen[rows]]] = metric_of(runner, quantity, run, answer, foil) + offset[rows]
                work.advance(len(rows))
    return found


def _edits(
    runner: Runner, patch: Patch, block: list[tuple[int, int]], values: list[FloatArray], seq: int
) -> dict[int, Edit]:
    """For each group that any row replaces units of, which and by what."""
    edits: dict[int, Edit] = {}
    sets: dict[int, tuple[Unit, ...]] = {number: tuple(patch.sets[number]) for number, _ in block}
    for place in sorted({place for units in sets.values() for place, _ in units}):
        group, given = runner.ports(patch.kind)[place].group, values[place]
        mask = np.zeros((len(block), seq, group.count, 1), np.bool_)
        value = np.zeros((len(block), seq, group.count, group.width), np.float32)
        positions = slice(seq - given.shape[1], seq)
        for line, (number, row) in enumerate(block):
            chosen = [unit for where, unit in sets[number] if where == place]
            mask[line, positions, chosen] = True
            value[line, positions] = given[row]
        edits[place] = mask, value
    return edits
