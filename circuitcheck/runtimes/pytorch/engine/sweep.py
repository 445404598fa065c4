"""The function behind every ablation and every repair: other values in chosen units, and the metric after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuitcheck.core.activations import Activations
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Batch, Prompts
from circuitcheck.core.runtime import Work
from circuitcheck.core.units import Unit
from circuitcheck.runtimes.pytorch.engine.clean_pass import (
    CannotReplayError,
    CleanPass,
    is_refusal,
    record_clean_pass,
    refusal,
)
from circuitcheck.runtimes.pytorch.engine.packing import (
    Plan,
    few_rows,
    full_batch,
    keep_freed_pages,
    plan,
    plan_last,
)
from circuitcheck.runtimes.pytorch.engine.passes import Rows, read_group_means, read_units
from circuitcheck.runtimes.pytorch.engine.replay import Replay
from circuitcheck.runtimes.pytorch.engine.replay_proof import prove_replay
from circuitcheck.runtimes.pytorch.engine.row_blocks import Block, Queue, blocks, gathered, spans
from circuitcheck.runtimes.pytorch.engine.wave import ENDINGS, Run, run_wave
from circuitcheck.runtimes.pytorch.forward import metric_of, metric_of_hidden
from circuitcheck.runtimes.pytorch.ports.edits import Edits
from circuitcheck.runtimes.pytorch.ports.ports import CannotEditError, Port
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

Engine = Literal["replay", "full"]
Sets = Sequence[Collection[Unit]]

WORTHWHILE = 2
"""Batches of tokens that running the last positions alone has to save: it takes two more clean passes, and a proof."""


def replacements(model: TorchModel, prompts: Prompts, patch: Patch) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Each batch with what stands in for its units, for each group `[batch, seq, count, width]`, or one position of it.

    Args:
        model: the model.
        prompts: the prompts.
        patch: of which the values and positions count.
    """
    ports = model.ports(patch.kind)
    # The mean is the whole task's, so that a prompt's ablated metric does not depend on which others are measured.
    means = read_group_means(model, prompts, ports) if patch.values == "mean" and len(prompts) else []
    for batch in prompts.batches(model.at_most(None)):
        positions = 1 if patch.positions == "answer" else batch.clean.shape[1]
        shape = (len(batch.index), positions)
        if isinstance(patch.values, Activations):
            yield batch, [torch.from_numpy(rows).to(model.device) for rows in patch.values.rows(batch.index)]
        elif patch.values == "mean":
            yield batch, [mean[-positions:].expand(*shape, *mean.shape[1:]) for mean in means]
        elif patch.values == "resample":
            ids = torch.from_numpy(batch.counterfactual).to(model.device)
            yield batch, [value[:, -positions:] for value in read_units(model, ports, ids)]
        else:
            zero = torch.zeros((), device=model.device)
            yield batch, [zero.expand(*shape, port.group.count, port.group.width) for port in ports]


def batch_metric(
    model: TorchModel,
    ports: Sequence[Port],
    rows: Rows,
    values: Sequence[Tensor],
    sets: Sets,
    work: Work,
    engine: Engine,
    alike: int = 0,
) -> NDArray[np.float32]:
    """M of prompts of one length under every set of units.

    Args:
        model: the model, in evaluation mode.
        ports: of the units.
        rows: the prompts.
        values: for each group what replaces its units, `[batch, seq or 1, count, width]`.
        sets: for each run the units that are replaced, all at once.
        work: budget, progress and notes: once each, that and why the model was run by full passes, and that memory
            forced smaller batches.
        engine: `replay` runs only what follows an intervention, after it proved that it may; `full` runs everything.
        alike: at how many first positions the values are the clean run's in a model none of whose positions sees a
            later one.

    Returns:
        m, float32, `[sets, batch]`.

    Raises:
        MemoryBudgetError: one prompt under one set of units alone does not fit the budget or the machine.
    """
    packing = plan(model, rows.ids.shape[1], len(rows), work.memory)
    said = Notes(model, work.notes)
    keep_freed_pages(rows.ids.device)
    if engine == "replay" and model.quantity.function is not None:
        engine = "full"
        said.full_passes(f"{model.quantity.name} is a function of the model's whole output")
    # At the answer position alone it was asked for; elsewhere it only takes less time. By all units, however many of
    # them this part of a sweep replaces: every part runs as the whole would.
    saved = alike * len(rows) * sum(port.group.count for port in ports)
    alike = alike if saved >= WORTHWHILE * full_batch(rows.ids.device) else 0
    at_answer = all(value.shape[1] == 1 for value in values)
    refused = said.whole_prompts if at_answer else _nothing
    ways = _ways(model, rows, rows.ids.shape[1] - 1 if at_answer else alike, packing, said, refused, work)
    if _is_forced(model, packing if engine == "full" else ways[0].packing, len(rows), len(sets), engine):
        said.smaller()
    sweep = Sweep(model, ports, rows, values, sets, work, packing, said)
    metric = torch.empty(len(sets), len(rows), device=rows.ids.device)
    with torch.no_grad():
        if engine == "full":
            sweep.full_passes(slice(0, len(rows)), metric)
            return metric.cpu().numpy()
        groups = spans(len(rows), min(way.packing.prompts for way in ways)) if sets else ()
        for group in (queue := Queue((Block(start, stop, (0,)) for start, stop in groups), said.smaller)):
            for way in ways:
                try:
                    replay = prove_replay(model, way.record(model, rows.ids[group.prompts]), rows.ids.shape[1])
                except CannotReplayError as error:
                    way.refused(str(error))
                    continue
                except (MemoryError, RuntimeError) as error:
                    queue.halve(group, error)
                    break
                reason = sweep.replays(replay, group.prompts, way.packing, metric)
                if not reason:
                    break
                way.refused(reason)
            else:
                sweep.full_passes(group.prompts, metric)
    return metric.cpu().numpy()


@dataclass(frozen=True)
class Way:
    """One way to replay.

    Attributes:
        record: makes the record of a clean pass that rows start from.
        packing: how many of them run together.
        refused: is told why it does not stand for the model.
    """

    record: Callable[[TorchModel, Tensor], CleanPass]
    packing: Plan
    refused: Callable[[str], None]


def _ways(
    model: TorchModel,
    rows: Rows,
    alike: int,
    packing: Plan,
    said: Notes,
    refused: Callable[[str], None],
    work: Work,
) -> list[Way]:
    """The ways to replay, the cheapest first, where nothing is replaced at the first `alike` positions."""
    ways = [Way(record_clean_pass, packing, said.no_replay)]
    seq = rows.ids.shape[1]
    count = max(1, seq - alike)
    last = plan_last(model, seq, count, len(rows), work.memory) if count < seq else None
    if last is not None:
        # It knows transformers' cache, which a model of the user's own does without.
        from circuitcheck.runtimes.pytorch.engine.last_positions import record_last_positions

        record = partial(record_last_positions, count=count)
        ways.insert(0, Way(record, last, refused))
    return ways


def _nothing(_: str) -> None:
    """Whole prompts give the same numbers, and were not asked to be fewer."""


def _is_forced(model: TorchModel, packing: Plan, prompts: int, sets: int, engine: Engine) -> bool:
    """Whether rows run in smaller batches than they would if memory were no matter."""
    rows = prompts if engine == "full" else prompts * sets
    recorded = engine == "full" or packing.prompts >= (model.at_most(prompts) or prompts)
    return bool(sets) and not (recorded and packing.rows >= min(packing.wanted, rows))


@dataclass(frozen=True)
class Notes:
    """What a reader of the report must know of how a model was run, each thing once."""

    model: TorchModel
    notes: list[str]

    def full_passes(self, reason: str) -> None:
        """The model was not replayed."""
        self._say(f"{self.model.name}: every intervention ran as a full pass", f", because {reason}.")

    def no_replay(self, reason: str) -> None:
        """Nothing could be replayed."""
        self.full_passes(f"a replay does not stand for it: {reason}")

    def whole_prompts(self, reason: str) -> None:
        """What was replaced at the answer position was not replayed at that position alone."""
        self._say(
            f"{self.model.name}: interventions at the answer position ran over whole prompts",
            f", because a pass of that position alone does not stand for it: {reason}.",
        )

    def smaller(self) -> None:
        """Batches were smaller than they would be with more memory."""
        self._say(
            f"{self.model.name}: memory forced smaller batches",
            "; roundings may differ from those of a run with more memory.",
        )

    def _say(self, what: str, details: str) -> None:
        if not any(note.startswith(what) for note in self.notes):
            self.notes.append(what + details)


@dataclass(frozen=True)
class Sweep:
    """Rows of prompts of one length, each prompt under each set of units.

    Attributes:
        model: the model.
        ports: of the units.
        rows: the prompts.
        values: for each group what replaces its units, `[batch, seq or 1, count, width]`.
        sets: for each run the units that are replaced.
        work: progress.
        packing: how many rows run together.
        said: notes.
    """

    model: TorchModel
    ports: Sequence[Port]
    rows: Rows
    values: Sequence[Tensor]
    sets: Sets
    work: Work
    packing: Plan
    said: Notes

    def replays(self, replay: Replay, prompts: slice, packing: Plan, metric: Tensor) -> str:
        """Runs what follows each intervention, `prompts` being those of the record; fills `metric[:, prompts]`.

        Args:
            replay: the replay.
            prompts: those of the record.
            packing: how many rows run together.
            metric: what is filled.

        Returns:
            Why the model's own code does not run with these units replaced, which the proof of the replay, that
            replaces heads, has not shown; empty where it does.
        """
        rows, values = self.rows.part(prompts), [value[prompts] for value in self.values]
        found = metric[:, prompts]
        starting: dict[int, list[int]] = {}
        for number, units in enumerate(self.sets):
            if units:
                first = min(self.ports[place].layer for place, _ in units)
                starting.setdefault(first, []).append(number)
            else:
                found[number] = metric_of_hidden(self.model, replay.clean.final, rows.answer, rows.foil)
                self.work.advance(len(rows))
        if starting and min(starting) < 0:
            return "some units stand before its first layer"
        firsts = {number: first for first, numbers in starting.items() for number in numbers}
        few = few_rows(self.model, self.rows.ids.shape[1])
        # By all prompts of the batch, however many of them a record holds: parts are told in the same way.
        groups = gathered(starting, len(self.rows), few if few <= packing.rows else 0)
        queue = Queue((block for sets in groups for block in blocks(len(rows), sets, packing.rows)), self.said.smaller)
        while wave := queue.taken(packing.wave):
            runs = [Run(block, [firsts[one] for one in block.sets], self._edits(block, values)) for block in wave]
            run_wave(replay, runs)
            for run in runs:
                if reason := self._read(run, queue, rows, found):
                    return reason
        return ""

    def _read(self, run: Run, queue: Queue, rows: Rows, found: Tensor) -> str:
        """Reads the metric at the end of a run, which goes back to the queue where it did not fit memory.

        Returns:
            As `replays` does.
        """
        block, count = run.block, len(run.block.sets)
        try:
            if run.error is not None:
                raise run.error
            assert run.hidden is not None
            part = rows.part(block.prompts)
            result = metric_of_hidden(self.model, run.hidden, part.answer.repeat(count), part.foil.repeat(count))
            found[list(block.sets), block.prompts] = result.view(count, -1)
        except ENDINGS as error:
            if isinstance(error, CannotEditError) or is_refusal(error):
                return f"layer {run.starts[0]} cannot be run with these units replaced ({refusal(error)})"
            queue.halve(block, error)
        else:
            self.work.advance(block.rows)
        return ""

    def full_passes(self, prompts: slice, metric: Tensor) -> None:
        """One pass of the whole model for each set; fills `metric[:, prompts]`.

        What every replay is held against, and what runs where a model cannot be replayed.
        """
        rows, values = self.rows.part(prompts), [value[prompts] for value in self.values]
        found = metric[:, prompts]
        waiting = [
            Block(start, stop, (number,))
            for number in range(len(self.sets))
            for start, stop in spans(len(rows), self.packing.rows)
        ]
        for block in (queue := Queue(waiting, self.said.smaller)):
            try:
                part = rows.part(block.prompts)
                with self._edits(block, values).in_place(self.model.module, sets=1):
                    found[block.sets[0], block.prompts] = metric_of(self.model, part.ids, part.answer, part.foil)
            except (MemoryError, RuntimeError) as error:
                queue.halve(block, error)
            else:
                self.work.advance(block.rows)

    def _edits(self, block: Block, values: Sequence[Tensor]) -> Edits:
        chosen = [self.sets[number] for number in block.sets]
        return Edits.of(self.ports, chosen, [value[block.prompts] for value in values])
