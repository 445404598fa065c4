"""Screening: which units may matter, told from a few backward passes; only those, and a sample of the rest, are swept.

An estimate never stands for a measurement: what was not measured is missing from the result, and the random sample
tells how much of importance may be among it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.runtime import Runtime, Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.core.units import Unit
from circuitcheck.stats.missed import CONFIDENCE, missed_units

TOP_SHARE = 0.25
"""Largest share of all units that is measured because it scores highest."""

SCORE_SHARE = 0.05
"""Share of the largest score from which on a unit is among those: half of what makes one important, since on trained
models gradients were off by less (benchmarks/README.md)."""

SAMPLE_SHARE = 0.04
LEAST_SAMPLE = 20
"""Fewer units say next to nothing about the rest: where none of 20 is important, up to 17 % of the rest may be."""

STEPS = 3
"""Points on the way from z to what replaces it; with the gradient at z itself, four backward passes a batch."""

IMPORTANT_SHARE = 0.1
"""Share of the largest measured importance from which on a unit counts as important."""


@dataclass(frozen=True)
class Estimates:
    """What backward passes say about every unit of the model, in its order.

    Attributes:
        clean: m of every prompt, in logits, float32 `[prompts]`.
        first_order: importance by the gradient at the clean pass, in logits, `[units]`.
        integrated: importance by the mean gradient on the straight way from z to its replacement (integrated
            gradients), in logits, `[units]`.
    """

    clean: np.ndarray
    first_order: np.ndarray
    integrated: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """The larger of the two magnitudes: a saturated softmax hides a unit from one of them, rarely from both."""
        return np.asarray(np.maximum(np.abs(self.first_order), np.abs(self.integrated)))


@dataclass(frozen=True)
class Screened:
    """A sweep of some units, chosen by screening.

    Attributes:
        top: units that were measured because they scored highest.
        sample: units that were measured as a random sample of all others.
        metric: m with each of `measured` ablated alone, in logits, float32 `[len(measured), prompts]`.
        importance: mean over prompts of m(clean) - m(ablated) of each of `measured`, in logits, `[len(measured)]`.
        estimates: what the screening said about all units.
        threshold: magnitude of importance in logits from which on a unit counts as important.
        unmeasured: number of units that were not measured.
        kind: of the units.
        missed: how many of those are estimated to be important, from the sample.
        interval: lower and upper end for `missed`, at the confidence `CONFIDENCE`.
    """

    top: tuple[Unit, ...]
    sample: tuple[Unit, ...]
    metric: np.ndarray
    importance: np.ndarray
    estimates: Estimates
    threshold: float
    unmeasured: int
    kind: str
    missed: float
    interval: tuple[float, float]

    @property
    def measured(self) -> tuple[Unit, ...]:
        """The units that were measured: `top`, then `sample`."""
        return (*self.top, *self.sample)

    @property
    def note(self) -> str:
        """What a reader of the report must know."""
        swept, low, high = len(self.measured), *self.interval
        return (
            f"screened sweep: {swept} of {swept + self.unmeasured} {self.kind}s were measured, {len(self.top)} by "
            f"their gradient and {len(self.sample)} at random; among the {self.unmeasured} others {self.missed:.1f} "
            f"are estimated to be important (at least {self.threshold:.3g} logits), {CONFIDENCE:.0%} interval "
            f"{low:.1f} to {high:.1f}."
        )


def screened_metric(
    model: Runtime,
    prompts: Prompts,
    spec: MeasurementSpec,
    work: Work,
    *,
    top_share: float = TOP_SHARE,
    sample_share: float = SAMPLE_SHARE,
) -> Screened:
    """Ranks all units by their gradients, and measures the top and a random sample of the rest exactly.

    Args:
        model: the model; one that can be differentiated.
        prompts: at least one.
        spec: kind of unit, ablation, ablated positions, and seed of the sample.
        work: budget, progress and notes; what was not measured is added to these.
        top_share: largest share of all units that is measured because it scores at least `SCORE_SHARE` of the highest
            score, above 0 and at most 1.
        sample_share: share of all units that is sampled from the others, above 0 and at most 1; at least
            `LEAST_SAMPLE` units, or all others where there are fewer.

    Raises:
        ConfigurationError: a share that is out of range, or no prompts.
        MemoryBudgetError: one prompt and unit alone does not fit the budget or the machine.
    """
    if not 0 < top_share <= 1 or not 0 < sample_share <= 1 or not prompts.index:
        raise ConfigurationError(
            f"screening needs prompts, and shares above 0 and at most 1; there are {len(prompts)} prompts, and the "
            f"shares are {top_share:g} of the top and {sample_share:g} of the rest."
        )
    found = estimate_importance(model, prompts, spec, work)
    units = model.layout(spec.unit).units
    top, sample = choose(units, found.score, top_share, sample_share, spec.seed)
    singles = tuple((unit,) for unit in (*top, *sample))
    metric = work.patching(model)(prompts, Patch(spec.unit, singles, spec.ablation, spec.ablate_at), work)
    importance = (found.clean.astype(np.float64) - metric).mean(1)
    threshold = IMPORTANT_SHARE * float(np.abs(importance).max())
    unmeasured = len(units) - len(top) - len(sample)
    hits = int((np.abs(importance[len(top) :]) >= threshold).sum())
    missed, interval = missed_units(hits, len(sample), unmeasured)
    screened = Screened(
        top=top,
        sample=sample,
        metric=metric,
        importance=importance,
        estimates=found,
        threshold=threshold,
        unmeasured=unmeasured,
        kind=spec.unit,
        missed=missed,
        interval=interval,
    )
    work.notes.append(screened.note)
    return screened


def choose(
    units: Sequence[Unit], score: np.ndarray, top_share: float, sample_share: float, seed: int
) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    """The units with the highest scores, best first, and a random sample of the others; ties by their order."""
    known = np.nan_to_num(score, nan=np.inf)
    order = np.argsort(-known, kind="stable")
    scored = int((known >= SCORE_SHARE * np.max(known, where=np.isfinite(known), initial=0.0)).sum())
    count = max(1, min(scored, round(top_share * len(units))))
    rest = order[count:]
    size = min(len(rest), max(LEAST_SAMPLE, round(sample_share * len(units))))
    chosen = np.sort(np.random.default_rng(seed).choice(rest, size, replace=False)) if size else rest
    return tuple(units[place] for place in order[:count]), tuple(units[place] for place in chosen)


def estimate_importance(model: Runtime, prompts: Prompts, spec: MeasurementSpec, work: Work) -> Estimates:
    """First-order and integrated-gradients importance of every unit, from `1 + STEPS` backward passes a prompt.

    Args:
        model: the model; one that can be differentiated.
        prompts: the prompts.
        spec: kind of unit, ablation, and ablated positions.
        work: budget.
    """
    kind = spec.unit
    own = model.activations(prompts, kind)
    ways = _ways(own, model.replacements(prompts, Patch(kind, (), spec.ablation, spec.ablate_at)))
    clean, gradient = model.gradient(prompts, kind, work=work)
    first = _damage(gradient, ways)
    integrated = np.zeros_like(first)
    for step in range(STEPS):
        share = np.float32((step + 0.5) / STEPS)
        points = tuple(z + share * way for z, way in zip(own.groups, ways.groups, strict=True))
        integrated += _damage(model.gradient(prompts, kind, replace(own, groups=points), work=work)[1], ways) / STEPS
    return Estimates(clean, first.mean(1), integrated.mean(1))


def _ways(own: Activations, replacement: Activations) -> Activations:
    """From each unit's own value to what replaces it; 0 at positions that are not replaced."""
    groups = tuple(np.zeros_like(group) for group in own.groups)
    ends = zip(np.cumsum(own.lengths), np.cumsum(replacement.lengths), replacement.lengths, strict=True)
    for end, other_end, length in ends:
        here, there = slice(end - length, end), slice(other_end - length, other_end)
        for way, z, value in zip(groups, own.groups, replacement.groups, strict=True):
            way[here] = value[there] - z[here]
    return replace(own, groups=groups)


def _damage(gradient: Activations, ways: Activations) -> NDArray[np.float64]:
    """What m loses on the way from each unit's value to its replacement, to first order, `[units, prompts]`."""
    return np.concatenate(
        [-ways.per_prompt((g * way).sum(-1)) for g, way in zip(gradient.in_double(), ways.in_double(), strict=True)]
    )
