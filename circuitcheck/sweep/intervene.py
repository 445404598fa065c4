"""The function behind every ablation and every repair: other values of `z` in chosen heads, and the metric after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from circuitcheck.hooks.forward import final_hidden, logit_difference
from circuitcheck.hooks.z import Edit, edit_z
from circuitcheck.models.hooked import HookedModel
from circuitcheck.sites.structure import Head
from circuitcheck.sweep.progress import Advance, silent


def intervene(
    model: HookedModel,
    ids: Tensor,
    answer: Tensor,
    foil: Tensor,
    values: Sequence[Tensor],
    head_sets: Sequence[Collection[Head]],
    advance: Advance = silent,
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

    Returns:
        m in logits, float32, `[len(head_sets), batch]`.
    """
    results = []
    with torch.no_grad():
        for heads in head_sets:
            with edit_z(model, _edits(heads, values)):
                hidden = final_hidden(model, ids)
            results.append(logit_difference(model, hidden, answer, foil))
            advance(len(ids))
    return torch.stack(results) if results else torch.empty(0, len(ids))


def _edits(heads: Collection[Head], values: Sequence[Tensor]) -> dict[int, Edit]:
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    return {layer: _edit(values[layer], chosen) for layer, chosen in by_layer.items()}


def _edit(value: Tensor, heads: list[int]) -> Edit:
    def edit(z: Tensor) -> Tensor:
        edited = z.clone()
        positions = slice(-1, None) if value.shape[1] == 1 else slice(None)
        edited[:, positions, heads] = value[:, :, heads].to(z.dtype)
        return edited

    return edit
