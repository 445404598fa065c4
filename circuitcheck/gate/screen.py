"""Screening: which heads may matter, told from a few backward passes; only those, and a sample of the rest, are swept.

An estimate never stands for a measurement: what was not measured is missing from the result, and the random sample
tells how much of importance may be among it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.prompts import Batch, Task
from circuitcheck.core.specification import Positions
from circuitcheck.runtimes.pytorch.engine.ablate import AblationKind, ablated_metric, replacements, task_means
from circuitcheck.runtimes.pytorch.engine.gradient import gradient_of
from circuitcheck.runtimes.pytorch.engine.packing import backward_prompts
from circuitcheck.runtimes.pytorch.forward import metric_of, run_model
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.hooks import Edit, edit_z, gradient_probe, record_z
from circuitcheck.runtimes.pytorch.ports.structure import Head

TOP_SHARE = 0.25
SAMPLE_SHARE = 0.1
LEAST_SAMPLE = 20
"""Fewer heads say next to nothing about the rest: where none of 20 is important, up to 17 % of the rest may be."""

STEPS = 3
"""Points on the way from z to what replaces it; with the gradient at z itself, four backward passes a batch."""

IMPORTANT_SHARE = 0.1
"""Share of the largest measured importance from which on a head counts as important."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimates:
    """What backward passes say about every head of the model, in its order.

    Attributes:
        clean: m of every prompt, in logits, float32 `[prompts]`.
        first_order: importance by the gradient at the clean pass, in logits, `[heads]`.
        integrated: importance by the mean gradient on the straight way from z to its replacement (integrated
            gradients), in logits, `[heads]`.
    """

    clean: np.ndarray
    first_order: np.ndarray
    integrated: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """The larger of the two magnitudes: a saturated softmax hides a head from one of them, rarely from both."""
        return np.asarray(np.maximum(np.abs(self.first_order), np.abs(self.integrated)))


@dataclass(frozen=True)
class Screened:
    """A sweep of some heads, chosen by screening.

    Attributes:
        top: heads that were measured because they scored highest.
        sample: heads that were measured as a random sample of all others.
        metric: m with each of `measured` ablated alone, in logits, float32 `[len(measured), prompts]`.
        importance: mean over prompts of m(clean) - m(ablated) of each of `measured`, in logits, `[len(measured)]`.
        estimates: what the screening said about all heads.
        threshold: magnitude of importance in logits from which on a head counts as important.
        unmeasured: number of heads that were not measured.
        missed: how many of those are estimated to be important, from the sample.
        interval: lower and upper end for `missed`, at the confidence `CONFIDENCE`.
    """

    top: tuple[Head, ...]
    sample: tuple[Head, ...]
    metric: np.ndarray
    importance: np.ndarray
    estimates: Estimates
    threshold: float
    unmeasured: int
    missed: float
    interval: tuple[float, float]

    @property
    def measured(self) -> tuple[Head, ...]:
        """The heads that were measured: `top`, then `sample`."""
        return (*self.top, *self.sample)

    @property
    def note(self) -> str:
        """What a reader of the report must know."""
        return (
            f"screened sweep: {len(self.measured)} of {len(self.measured) + self.unmeasured} heads were measured, "
            f"{len(self.top)} by their gradient and {len(self.sample)} at random; among the {self.unmeasured} others "
            f"{self.missed:.1f} are estimated to be important (at least {self.threshold:.3g} logits), "
            f"{CONFIDENCE:.0%} interval {self.interval[0]:.1f} to {self.interval[1]:.1f}."
        )


def screened_metric(
    model: HookedModel,
    task: Task,
    index: Iterable[int],
    kind: AblationKind,
    advance: Advance = silent,
    *,
    top_share: float = TOP_SHARE,
    sample_share: float = SAMPLE_SHARE,
    seed: int = 0,
    at: Positions = "all",
    memory: int | None = None,
    notes: list[str] | None = None,
) -> Screened:
    """Ranks all heads by their gradients, and measures the top and a random sample of the rest exactly.

    Args:
        model: the model, in evaluation mode; one that can be differentiated.
        task: the task.
        index: which of its prompts; at least one.
        kind: what stands in for `z`, as in `ablated_metric`.
        advance: called with the number of (head, prompt) rows that were just finished.
        top_share: share of all heads that is measured because it scores highest, above 0 and at most 1.
        sample_share: share of all heads that is sampled from the others, above 0 and at most 1; at least
            `LEAST_SAMPLE` heads, or all others where there are fewer.
        seed: of the sample.
        at: positions whose `z` is replaced, as in `ablated_metric`.
        memory: budget in bytes, as in `intervene`.
        notes: what a reader of the report must know; what was not measured is added.

    Raises:
        ConfigurationError: a share that is out of range, or no prompts.
        MemoryBudgetError: one prompt and head alone does not fit the budget or the machine.
    """
    index = list(index)
    if not 0 < top_share <= 1 or not 0 < sample_share <= 1 or not index:
        raise ConfigurationError(
            f"screening needs prompts, and shares above 0 and at most 1; there are {len(index)} prompts, and the "
            f"shares are {top_share:g} of the top and {sample_share:g} of the rest."
        )
    found = estimate_importance(model, task, index, kind, at=at, memory=memory)
    top, sample = choose(model.heads, found.score, top_share, sample_share, seed)
    heads = [*top, *sample]
    metric = ablated_metric(model, task, index, kind, advance, heads=heads, at=at, memory=memory, notes=notes)
    importance = (found.clean.astype(np.float64) - metric).mean(1)
    threshold = IMPORTANT_SHARE * float(np.abs(importance).max())
    unmeasured = len(model.heads) - len(top) - len(sample)
    hits = int((np.abs(importance[len(top) :]) >= threshold).sum())
    missed, interval = missed_heads(hits, len(sample), unmeasured)
    screened = Screened(
        top=top,
        sample=sample,
        metric=metric,
        importance=importance,
        estimates=found,
        threshold=threshold,
        unmeasured=unmeasured,
        missed=missed,
        interval=interval,
    )
    if notes is not None:
        notes.append(screened.note)
    return screened


def choose(
    heads: Sequence[Head], score: np.ndarray, top_share: float, sample_share: float, seed: int
) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """The heads with the highest scores, best first, and a random sample of the others; ties by the order of heads."""
    order = np.argsort(-np.nan_to_num(score, nan=np.inf), kind="stable")
    count = max(1, round(top_share * len(heads)))
    rest = order[count:]
    size = min(len(rest), max(LEAST_SAMPLE, round(sample_share * len(heads))))
    chosen = np.sort(np.random.default_rng(seed).choice(rest, size, replace=False)) if size else rest
    return tuple(heads[place] for place in order[:count]), tuple(heads[place] for place in chosen)


def missed_heads(hits: int, sampled: int, unmeasured: int) -> tuple[float, tuple[float, float]]:
    """How many important heads there may be among those that were not measured.

    Args:
        hits: important heads in the sample.
        sampled: heads in the sample.
        unmeasured: heads that the sample stands for, without itself.

    Returns:
        The estimate and its interval at the confidence `CONFIDENCE`, in heads. The interval is Clopper and Pearson's,
        with the hypergeometric distribution of a sample that is drawn without replacement: every number of important
        heads under which the sample is not among the least likely ones on either side.
    """
    if not unmeasured:
        return 0.0, (0.0, 0.0)
    if not sampled:
        return float("nan"), (0.0, float(unmeasured))
    missed = np.arange(unmeasured + 1)
    drawn = stats.hypergeom(sampled + unmeasured, hits + missed, sampled)
    tail = (1 - CONFIDENCE) / 2
    possible = missed[(drawn.cdf(hits) >= tail) & (drawn.sf(hits - 1) >= tail)]
    return unmeasured * hits / sampled, (float(possible[0]), float(possible[-1]))


def estimate_importance(
    model: HookedModel,
    task: Task,
    index: Sequence[int],
    kind: AblationKind,
    *,
    at: Positions = "all",
    memory: int | None = None,
) -> Estimates:
    """First-order and integrated-gradients importance of every head, from `1 + STEPS` backward passes a batch.

    Args:
        model: the model, in evaluation mode; one that can be differentiated.
        task: the task.
        index: which of its prompts.
        kind: what stands in for `z`.
        at: positions whose `z` is replaced, as in `ablated_metric`.
        memory: budget in bytes for what a backward pass keeps; by default a share of what is free.
    """
    longest = max(len(task.pairs[place].clean) for place in index)
    size = model.at_most(backward_prompts(model, longest, memory))
    means = task_means(model, task, size) if kind == "mean" else []
    place = {prompt: column for column, prompt in enumerate(index)}
    clean = np.empty(len(index), np.float32)
    first, integrated = (np.empty((len(model.heads), len(index))) for _ in range(2))
    for batch, values in replacements(model, task.batches(index, size), kind, means, at):
        columns = [place[prompt] for prompt in batch.index]
        with torch.no_grad(), record_z(model) as recorded:
            run_model(model, batch.clean.to(model.device))
        z = [recorded[site.layer] for site in model.structure.layers]
        ways = [_way(own, value) for own, value in zip(z, values, strict=True)]
        metric, gradients = _gradients(model, batch, z)
        clean[columns] = metric.cpu().numpy()
        first[:, columns] = _damage(gradients, ways)
        steps = np.zeros((len(model.heads), len(columns)))
        for step in range(STEPS):
            share = (step + 0.5) / STEPS
            steps += _damage(_gradients(model, batch, [a + share * b for a, b in zip(z, ways, strict=True)])[1], ways)
        integrated[:, columns] = steps / STEPS
    return Estimates(clean, first.mean(1), integrated.mean(1))


def _gradients(model: HookedModel, batch: Batch, pinned: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """M and dm/dz with z held at `pinned`; the derivative is total, through the later layers' own z as well."""
    on_device = batch.to(model.device)
    layers = [site.layer for site in model.structure.layers]
    probes: dict[int, Tensor] = {}
    edits = {layer: _pin(layer, value, probes) for layer, value in zip(layers, pinned, strict=True)}
    with torch.enable_grad(), edit_z(model, edits):
        metric = metric_of(model, on_device.clean, on_device.answer, on_device.foil)
        gradients = gradient_of(model, metric, [probes[layer] for layer in layers])
    return metric.detach(), gradients


def _way(z: Tensor, value: Tensor) -> Tensor:
    """From `z` to what replaces it; 0 at positions that are not replaced, `[batch, seq, n_heads, d_head]`."""
    way = torch.zeros_like(z)
    way[:, -value.shape[1] :] = value - z[:, -value.shape[1] :]
    return way


def _pin(layer: int, value: Tensor, probes: dict[int, Tensor]) -> Edit:
    def pin(z: Tensor) -> Tensor:
        probes[layer], shifted = gradient_probe(z)
        return shifted + (value.to(z.dtype) - z).detach()

    return pin


def _damage(gradients: Sequence[Tensor], ways: Sequence[Tensor]) -> np.ndarray:
    """What m loses on the way from z to its replacement, to first order, in logits, `[heads, prompts]`."""
    lost = [-(g.double() * way.double()).sum((1, 3)).T for g, way in zip(gradients, ways, strict=True)]
    return np.asarray(torch.cat(lost).cpu().numpy())
