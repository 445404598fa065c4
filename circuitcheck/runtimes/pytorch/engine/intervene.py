"""The function behind every ablation and every repair: other values of `z` in chosen heads, and the metric after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from circuitcheck.core.progress import Advance, silent
from circuitcheck.runtimes.pytorch.engine.clean_pass import CannotReplayError, record_clean_pass
from circuitcheck.runtimes.pytorch.engine.full_passes import full_passes
from circuitcheck.runtimes.pytorch.engine.packing import Block, Plan, blocks, keep_freed_pages, plan, run_blocks, spans
from circuitcheck.runtimes.pytorch.engine.prompts import Prompts
from circuitcheck.runtimes.pytorch.engine.replay import Replay, block_edits
from circuitcheck.runtimes.pytorch.engine.replay_proof import prove_replay
from circuitcheck.runtimes.pytorch.forward import metric_of_hidden
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.structure import Head

Engine = Literal["replay", "full"]


def intervene(
    model: HookedModel,
    ids: Tensor,
    answer: Tensor,
    foil: Tensor,
    values: Sequence[Tensor],
    head_sets: Sequence[Collection[Head]],
    advance: Advance = silent,
    *,
    memory: int | None = None,
    notes: list[str] | None = None,
    engine: Engine = "replay",
) -> Tensor:
    """Metric of every prompt under every head set.

    Args:
        model: the model, in evaluation mode.
        ids: token ids of prompts of one length, `[batch, seq]`.
        answer: token ids, `[batch]`.
        foil: token ids, `[batch]`.
        values: for each layer what replaces `z`, `[batch, seq, n_heads, d_head]`, or `[batch, 1, n_heads, d_head]` to
            replace the answer position only.
        head_sets: for each run the heads whose `z` is replaced, all at once; an empty set replaces nothing.
        advance: called with the number of rows that were just finished.
        memory: budget in bytes for everything but the model and the arguments; by default a share of what is free.
        notes: where it is said, once each, that and why the model was run by full passes, and that memory forced
            smaller batches.
        engine: `replay` runs only what follows an intervention, after it proved that it may; `full` runs everything.

    Returns:
        m, float32, `[len(head_sets), batch]`.

    Raises:
        MemoryBudgetError: one prompt under one head set alone does not fit the budget or the machine.
    """
    prompts = Prompts(ids, answer, foil, values)
    packing = plan(model, ids.shape[1], len(ids), memory)
    said = Notes(model, [] if notes is None else notes)
    keep_freed_pages(ids.device)
    if engine == "replay" and model.metric.function is not None:
        engine = "full"
        said.full_passes(f"{model.metric.name} is a function of the model's whole output")
    if _is_forced(model, packing, len(ids), len(head_sets), engine):
        said.smaller()
    if engine == "full":
        return full_passes(model, prompts, head_sets, advance, most_prompts=packing.rows, halved=said.smaller)
    metric = torch.empty(len(head_sets), len(ids), device=ids.device)

    def run(group: Block) -> None:
        part = prompts.part(group.prompts)
        metric[:, group.prompts] = _measure(model, part, head_sets, advance, packing, said)

    with torch.no_grad():
        groups = spans(len(ids), packing.prompts) if head_sets else ()
        run_blocks((Block(start, stop, (0,)) for start, stop in groups), run, said.smaller)
    return metric


def _is_forced(model: HookedModel, packing: Plan, prompts: int, sets: int, engine: Engine) -> bool:
    """Whether rows run in smaller batches than they would if memory were no matter."""
    rows = prompts if engine == "full" else prompts * sets
    recorded = engine == "full" or packing.prompts >= (model.at_most(prompts) or prompts)
    return bool(sets) and not (recorded and packing.rows >= min(packing.wanted, rows))


@dataclass(frozen=True)
class Notes:
    """What a reader of the report must know of how a model was run, each thing once."""

    model: HookedModel
    notes: list[str]

    def full_passes(self, reason: str) -> None:
        """The model was not replayed."""
        self._say(f"{self.model.name}: every intervention ran as a full pass", f", because {reason}.")

    def smaller(self) -> None:
        """Batches were smaller than they would be with more memory."""
        self._say(
            f"{self.model.name}: memory forced smaller batches",
            "; roundings may differ from those of a run with more memory.",
        )

    def _say(self, what: str, details: str) -> None:
        if not any(note.startswith(what) for note in self.notes):
            self.notes.append(what + details)


def _measure(
    model: HookedModel,
    prompts: Prompts,
    head_sets: Sequence[Collection[Head]],
    advance: Advance,
    packing: Plan,
    said: Notes,
) -> Tensor:
    """Replays if the model can be replayed, and runs full passes otherwise, `[len(head_sets), batch]`."""
    try:
        replay = prove_replay(model, record_clean_pass(model, prompts.ids))
    except CannotReplayError as error:
        reason = str(error)
    else:
        return _replayed(replay, prompts, head_sets, advance, packing.rows, said)
    said.full_passes(f"a replay does not stand for it: {reason}")
    return full_passes(model, prompts, head_sets, advance, most_prompts=packing.rows, halved=said.smaller)


def _replayed(
    replay: Replay,
    prompts: Prompts,
    head_sets: Sequence[Collection[Head]],
    advance: Advance,
    rows: int,
    said: Notes,
) -> Tensor:
    model = replay.model
    metric = torch.empty(len(head_sets), len(prompts), device=prompts.ids.device)
    starting: dict[int, list[int]] = {}
    for number, heads in enumerate(head_sets):
        if heads:
            starting.setdefault(min(layer for layer, _ in heads), []).append(number)
        else:
            metric[number] = metric_of_hidden(model, replay.clean.final, prompts.answer, prompts.foil)
            advance(len(prompts))

    def run(block: Block) -> None:
        part, sets = prompts.part(block.prompts), len(block.sets)
        chosen = [head_sets[number] for number in block.sets]
        first = min(layer for layer, _ in chosen[0])
        hidden = replay.run(first, block.prompts, sets, block_edits(model, chosen, part.values))
        result = metric_of_hidden(model, hidden, part.answer.repeat(sets), part.foil.repeat(sets))
        metric[list(block.sets), block.prompts] = result.view(sets, -1)
        advance(block.rows)

    for layer in sorted(starting):
        run_blocks(blocks(len(prompts), starting[layer], rows), run, said.smaller)
    return metric
