"""What a fault takes from a task's circuit, told from the reference alone, before any candidate is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.patch import Patch
from circuitcheck.core.runtime import Runtime, Work
from circuitcheck.core.units import Unit
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.hooks import record_input
from circuitcheck.runtimes.pytorch.quantizers.rtn import dequantize, round_weight
from detection.candidate import Truth
from detection.captured import captured

IN_CIRCUIT = 0.25
"""A head belongs to a task's circuit from this share of the importance of the task's largest head."""

UNUSED = 0.05
"""Below this share, in every task, a head is not used."""

Shares = Mapping[str, Mapping[Unit, float]]
"""Task to head to |importance| over the task's largest."""


def importance_shares(baselines: Mapping[str, Recording], kind: str | None = None) -> dict[str, dict[Unit, float]]:
    """Each head's |importance| relative to the largest of the task, by the baselines' own ablation or another kind."""
    shares = {}
    for task, baseline in baselines.items():
        size = np.abs(baseline.importance(kind or baseline.spec.ablation))
        shares[task] = dict(zip(baseline.measured, (size / size.max()).tolist(), strict=True))
    return shares


def severities(shares: Shares, taken: Mapping[Unit, float]) -> dict[str, float]:
    """Task to the largest share of its largest head's importance that is taken from any head.

    Args:
        shares: from `importance_shares`.
        taken: head to the share of what it does that is changed: 1 for a pruned head, 0.3 for one scaled by 0.7.
    """
    return {task: max(of[head] * part for head, part in taken.items()) for task, of in shares.items()}


def truth_of(severity: Mapping[str, float]) -> tuple[Truth, tuple[str, ...]]:
    """The label, and the tasks whose gates are to catch it."""
    caught = tuple(task for task, value in severity.items() if value >= IN_CIRCUIT)
    if caught:
        return "fault", caught
    return ("unused-head" if max(severity.values()) < UNUSED else "minor"), ()


def circuit_heads(shares: Shares) -> list[Unit]:
    """Heads in the circuit of any task, the largest share first."""
    largest = _largest(shares)
    return sorted((head for head in largest if largest[head] >= IN_CIRCUIT), key=lambda head: -largest[head])


def unused_heads(baselines: Mapping[str, Recording]) -> list[Unit]:
    """Heads that no task uses, in order: below `UNUSED` under every kind of ablation.

    A head that says the same on every prompt matters little under resample ablation, but the model needs what it says:
    pruning it is no fault in an unused head.
    """
    kinds = {kind for baseline in baselines.values() for kind in baseline.ablated}
    largest = [_largest(importance_shares(baselines, kind)) for kind in sorted(kinds)]
    return sorted(head for head in largest[0] if max(of[head] for of in largest) < UNUSED)


def minor_heads(shares: Shares) -> list[Unit]:
    """Heads that some task uses and that belong to no circuit, the largest share first."""
    largest = _largest(shares)
    return sorted((head for head in largest if UNUSED <= largest[head] < IN_CIRCUIT), key=lambda head: -largest[head])


def _largest(shares: Shares) -> dict[Unit, float]:
    heads: Iterable[Unit] = next(iter(shares.values()))
    return {head: max(of[head] for of in shares.values()) for head in heads}


def mlp_shares(reference: Runtime, baselines: Mapping[str, Recording]) -> dict[str, list[float]]:
    """Task to each layer's |m(clean) - m(MLP's output from the counterfactual)|, mean over solved prompts, relative to
    the largest importance of a head of that task.
    """
    layout = reference.layout("block")
    mlps = tuple((unit,) for unit in layout.units if layout.label(unit).startswith("mlp"))
    return {task: _mlp_shares(reference, baseline, mlps) for task, baseline in baselines.items()}


def _mlp_shares(reference: Runtime, baseline: Recording, mlps: tuple[tuple[Unit], ...]) -> list[float]:
    largest = np.abs(baseline.importance(baseline.spec.ablation)).max()
    ablated = reference.patched(baseline.solved_prompts, Patch("block", mlps, "resample"), Work())
    effects = baseline.metric[list(baseline.solved)].astype(np.float64) - ablated
    return (np.abs(effects.mean(axis=1)) / largest).tolist()  # type: ignore[no-any-return]


@torch.no_grad()
def attention_moved(reference: HookedModel, other: HookedModel, baseline: Recording) -> dict[Unit, float]:
    """Unit to the total variation distance of its attention pattern at the answer position, mean over solved prompts.

    Between 0 and 1: the share of the attention that goes elsewhere. A fault that is no edit of one head, such as a
    wrong rotary base, is sized by it. Both models run eager attention, which gives its patterns.
    """
    distances: list[NDArray[Any]] = []
    paths = [site.attention for site in reference.structure.layers]
    for batch in baseline.solved_prompts.batches():
        patterns, ids = [], torch.from_numpy(batch.clean)
        for model in (reference, other):
            with captured(model.module, paths) as outputs:
                model.module(ids)
            patterns.append(torch.stack([weights for _, weights in outputs])[:, :, :, -1])
        distances.append(((patterns[0] - patterns[1]).abs().sum(-1) / 2).transpose(0, 1).numpy())
    mean = np.concatenate(distances).mean(axis=0)
    return {(layer, head): float(mean[layer, head]) for layer, head in reference.layout("head").units}


@torch.no_grad()
def rounding_error(reference: HookedModel, path: str, bits: int, ids: Tensor) -> float:
    """What rounding a linear map changes in what it gives, relative to that: norm((W - W') x) / norm(W x) over a text.

    Args:
        reference: the model, which is left as it was found.
        path: of the linear map.
        bits: that its weight is rounded to, a scale for each output channel.
        ids: token ids of the text, `[rows, seq]`.
    """
    linear: Any = reference.module.get_submodule(path)
    with record_input(linear) as inputs:
        reference.module(ids)
    weight = linear.weight
    error = weight - dequantize(*round_weight(weight, bits))
    return float((inputs[-1] @ error.T).norm() / (inputs[-1] @ weight.T).norm())
