"""The function behind every ablation and every repair: other values of `z` in chosen heads, and the metric after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from circuitcheck.hooks.forward import logit_difference
from circuitcheck.models.hooked import HookedModel
from circuitcheck.sites.structure import Head
from circuitcheck.sweep.full import full_passes
from circuitcheck.sweep.packing import Block, Plan, blocks, keep_freed_pages, plan, run_blocks, spans
from circuitcheck.sweep.progress import Advance, silent
from circuitcheck.sweep.prompts import Prompts
from circuitcheck.sweep.proof import prove_replay
from circuitcheck.sweep.record import CannotReplayError, record_clean_pass
from circuitcheck.sweep.replay import Replay, block_edits

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
        notes: where a model that cannot be replayed is said to have been run by full passes, and why, once.
        engine: `replay` runs only what follows an intervention, after it proved that it may; `full` runs everything.

    Returns:
        m in logits, float32, `[len(head_sets), batch]`.

    Raises:
        MemoryBudgetError: one prompt under one head set alone does not fit the budget or the machine.
    """
    prompts = Prompts(ids, answer, foil, values)
    packing = plan(model, ids.shape[1], len(ids), memory)
    keep_freed_pages(ids.device)
    if engine == "full":
        return full_passes(model, prompts, head_sets, advance, most_prompts=packing.rows)
    metric = torch.empty(len(head_sets), len(ids), device=ids.device)

    def run(group: Block) -> None:
        part = prompts.part(group.prompts)
        metric[:, group.prompts] = _measure(model, part, head_sets, advance, packing, notes)

    with torch.no_grad():
        groups = spans(len(ids), packing.prompts) if head_sets else ()
        run_blocks((Block(start, stop, (0,)) for start, stop in groups), run)
    return metric


def _measure(
    model: HookedModel,
    prompts: Prompts,
    head_sets: Sequence[Collection[Head]],
    advance: Advance,
    packing: Plan,
    notes: list[str] | None,
) -> Tensor:
    """Replays if the model can be replayed, and runs full passes otherwise, `[len(head_sets), batch]`."""
    try:
        replay = prove_replay(model, record_clean_pass(model, prompts.ids))
    except CannotReplayError as error:
        reason = str(error)
    else:
        return _replayed(replay, prompts, head_sets, advance, packing.rows)
    note = f"{model.name}: every intervention ran as a full pass, because a replay does not stand for it: {reason}."
    if notes is not None and note not in notes:
        notes.append(note)
    return full_passes(model, prompts, head_sets, advance, most_prompts=packing.rows)


def _replayed(
    replay: Replay,
    prompts: Prompts,
    head_sets: Sequence[Collection[Head]],
    advance: Advance,
    rows: int,
) -> Tensor:
    model = replay.model
    metric = torch.empty(len(head_sets), len(prompts), device=prompts.ids.device)
    starting: dict[int, list[int]] = {}
    for number, heads in enumerate(head_sets):
        if heads:
            starting.setdefault(min(layer for layer, _ in heads), []).append(number)
        else:
            metric[number] = logit_difference(model, replay.clean.final, prompts.answer, prompts.foil)
            advance(len(prompts))

    def run(block: Block) -> None:
        part, sets = prompts.part(block.prompts), len(block.sets)
        chosen = [head_sets[number] for number in block.sets]
        first = min(layer for layer, _ in chosen[0])
        hidden = replay.run(first, block.prompts, sets, block_edits(model, chosen, part.values))
        result = logit_difference(model, hidden, part.answer.repeat(sets), part.foil.repeat(sets))
        metric[list(block.sets), block.prompts] = result.view(sets, -1)
        advance(block.rows)

    for layer in sorted(starting):
        run_blocks(blocks(len(prompts), starting[layer], rows), run)
    return metric
