"""What a candidate does to a task, told without the gate: on prompts that it never sees, and from the reference.

Said before anything was measured: a fault is *material* where it costs at least `MATERIAL` of the answers to fresh
prompts, by itself or more than plain rounding at its precision does, or where it changes at least `IN_CIRCUIT` of what
a head does that is in the circuit by construction. It is a *no-op* where by itself it moves no logit on fresh prompts.
Else it is *subtle* where it changes the circuit: by `CHANGED` of the largest importance, by another kind of ablation on
fresh prompts, or `IN_CIRCUIT` of the importance of the task's largest head by where it is. What is left is *minor*. A
benign candidate that loses as many answers as a material fault is *lossy*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from circuitcheck import HookedModel, hook_module
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.units import Unit
from detection.subjects import Model

MATERIAL = 0.05
"""Of the answers to fresh prompts that the reference gives."""

NO_OP = 1e-4
"""Of the largest logit: below it a fault does nothing."""

CHANGED = 0.1
"""Of the largest importance."""

IN_CIRCUIT = 0.25
"""A head belongs to a task's circuit from this share of the importance of the task's largest head."""

PROFILED, KIND = 64, "mean"
"""Fresh prompts, and the kind of ablation, that importances are taken with here; the gate takes others of both."""

SOLVED = 0.5
"""Logits by which the reference has to prefer the answer, as for the gate."""

Truth = Literal["benign", "lossy", "material", "subtle", "minor", "no-op"]
Shares = Mapping[str, Mapping[Unit, float]]
"""Task to head to |importance| over the task's largest."""


@dataclass(frozen=True)
class Answers:
    """What a model says to fresh prompts.

    Attributes:
        metric: logit of the answer minus that of the foil, `[fresh]`.
        logits: at every position, for each length of prompts `[prompts, seq, vocabulary]`.
        importance: by `KIND` of ablation, on the first `PROFILED` of the prompts, `[heads]`; empty where nobody asked.
    """

    metric: NDArray[np.float64]
    logits: list[NDArray[np.float32]]
    importance: NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What a change does to the answers.

    Attributes:
        lost: share of the reference's answers to fresh prompts that are not given any more.
        moved: largest change of a logit at any position, relative to the largest logit of all.
        profile: largest change of a head's importance, relative to the largest importance.
    """

    lost: float
    moved: float
    profile: float


def answers(module: nn.Module, task: Task, *, profiled: bool = True) -> Answers:
    """Runs the prompts of a task, and where it is to be profiled ablates every head."""
    metric, logits = np.zeros(len(task.pairs)), []
    with torch.no_grad():
        for batch in task.prompts().batches():
            logits.append(module(torch.from_numpy(batch.clean)).logits.float().numpy())
            last, rows = logits[-1][:, -1].astype(np.float64), np.arange(len(batch.index))
            metric[list(batch.index)] = last[rows, batch.answer] - last[rows, batch.foil]
    return Answers(metric, logits, _importance(hook_module(module), task) if profiled else np.zeros(0))


def _importance(model: HookedModel, task: Task) -> NDArray[np.float64]:
    prompts = Task(task.name, task.pairs[:PROFILED]).prompts()
    units = model.layout("head").units
    ablated = model.patched(prompts, Patch("head", tuple((unit,) for unit in units), KIND), Work())  # type: ignore[arg-type]
    effects = model.metric(prompts).astype(np.float64) - ablated
    return np.asarray(effects.mean(axis=1))


def lost_share(reference: Answers, candidate: Answers) -> float:
    """Of the reference's answers, those that are not given any more; NaN logits give none."""
    return 1 - float((candidate.metric[reference.metric > SOLVED] > 0).mean())


def effect(reference: Answers, candidate: Answers) -> Effect:
    """What has changed; NaN logits have moved without end."""
    with np.errstate(invalid="ignore"):
        steps = [np.abs(one - other).max() for one, other in zip(candidate.logits, reference.logits, strict=True)]
        moved = max(steps) / max(np.abs(one).max() for one in reference.logits)
        profile = np.abs(candidate.importance - reference.importance).max() / np.abs(reference.importance).max()
    return Effect(
        lost_share(reference, candidate), *(float(np.nan_to_num(value, nan=np.inf)) for value in (moved, profile))
    )


def reference_answers(model: Model, task: str) -> Answers:
    """Of the reference, once."""
    return model.once(  # type: ignore[no-any-return]
        f"answers to {task}", lambda: answers(model.module, model.tasks[task].fresh)
    )


def shares_of(model: Model) -> Shares:
    """Each head's |importance| relative to the largest of the task."""
    units = hook_module(model.module).layout("head").units
    shares = {}
    for task in model.tasks:
        size = np.abs(reference_answers(model, task).importance)
        shares[task] = dict(zip(units, (size / size.max()).tolist(), strict=True))
    return shares


def circuit_heads(shares: Shares) -> list[Unit]:
    """Heads in the circuit of any task, the largest share first."""
    heads: Iterable[Unit] = next(iter(shares.values()))
    largest = {head: max(of[head] for of in shares.values()) for head in heads}
    return sorted((head for head in largest if largest[head] >= IN_CIRCUIT), key=lambda head: -largest[head])


def severity(shares: Mapping[Unit, float], touched: Mapping[Unit, float]) -> float:
    """The largest share of a task's largest head's importance that is taken from any head."""
    return max((shares[head] * part for head, part in touched.items()), default=0.0)


def truth_of(
    *, is_benign: bool, lost: float, lost_plainly: float, alone: Effect | None, taken: float, in_circuit: float
) -> Truth:
    """The label.

    Args:
        is_benign: whether the family is.
        lost: share of answers that the candidate loses.
        lost_plainly: the same of plain rounding to its precision.
        alone: what the fault does without any rounding; None for what is benign.
        taken: its severity, see `severity`.
        in_circuit: the largest part that is changed of a head that is in the circuit by construction.
    """
    if is_benign or alone is None:
        return "lossy" if lost >= MATERIAL else "benign"
    if max(alone.lost, lost - lost_plainly) >= MATERIAL or (in_circuit >= IN_CIRCUIT and alone.moved > NO_OP):
        return "material"
    if alone.moved <= NO_OP:
        return "no-op"
    return "subtle" if alone.profile >= CHANGED or taken >= IN_CIRCUIT else "minor"


def known_part(circuit: frozenset[Unit] | None, touched: Mapping[Unit, float]) -> float:
    """The largest part that is changed of a head that is in the circuit by construction."""
    return max((part for head, part in touched.items() if circuit and head in circuit), default=0.0)


def as_json(value: Any) -> Any:
    """Keys that are heads become words."""
    return {f"{head[0]}.{head[1]}": part for head, part in value.items()}
