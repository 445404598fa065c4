"""Places damage by layer and module: each module alone gets the reference's output, and then more and more of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.beside import Beside
from circuitcheck.baseline.recording import Recording
from circuitcheck.core.activations import Activations, require_comparable
from circuitcheck.core.errors import SiteError
from circuitcheck.core.modules import Module, Placing
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.reading import Reading
from circuitcheck.core.runtime import Runtime, Work
from circuitcheck.core.units import Layout, Unit
from circuitcheck.gate.sample import Sample
from circuitcheck.stats.drift import drift_sums, joined_sums, relative_drift
from circuitcheck.stats.recovery import recovery

STILL = 0.005
"""Share of the metric by which prompts have to move in the mean before a place is looked for; rounding the embedded
model to 8 bits moves them by less."""

FEW = 0.2
"""What culprits may leave of the damage."""

TURNED, SAME_SIZE = 0.5, 0.1
"""How far the map that reads the residual stream moves where that is turned, and how far its size may, relative."""


@dataclass(frozen=True)
class Repaired:
    """What repairing modules did.

    Attributes:
        alone: m with each module alone repaired, `[modules, prompts]`.
        order: places of modules, first the one that leaves least alone.
        together: m with the first k of that order repaired, for k from 1 to all, `[modules, prompts]`.
        drift: of what each module puts out, read in logits, `[modules]`.
    """

    alone: NDArray[Any]
    order: NDArray[np.intp]
    together: NDArray[Any]
    drift: NDArray[np.float64]


@dataclass(frozen=True)
class PlacingPlan:
    """Which repairs tell where damage is.

    Attributes:
        prompts: that are looked at.
        layout: the modules.
        values: the reference's outputs in the candidate's coordinates.
        drift: of what each module puts out, read in logits, `[modules]`.
        reference: m of the reference in logits, `[prompts]`.
        moved: how far m has moved, `[prompts]`.
    """

    prompts: Prompts
    layout: Layout
    values: Activations
    drift: NDArray[np.float64]
    reference: NDArray[np.float64]
    moved: NDArray[np.float64]

    @property
    def each_alone(self) -> Patch:
        """Repairs one module at a time."""
        return self._repair([(unit,) for unit in self.layout.units])

    def order(self, alone: NDArray[Any]) -> NDArray[np.intp]:
        """Places of modules, first the one that leaves least; of m with each alone repaired, `[modules, prompts]`."""
        return np.argsort(left_of(self.reference, alone, self.moved), kind="stable")

    def more_and_more(self, order: NDArray[np.intp]) -> Patch:
        """Repairs the first module of an order, the first two, and so on."""
        units = self.layout.units
        return self._repair([tuple(sorted(units[place] for place in order[: last + 1])) for last in range(len(units))])

    def _repair(self, sets: Sequence[tuple[Unit, ...]]) -> Patch:
        return Patch(self.layout.kind, tuple(sets), self.values)


def plan_placing(
    baseline: Recording, candidate: Runtime, metric: NDArray[np.float64], work: Work
) -> PlacingPlan | None:
    """How to place damage; None where the baseline keeps no modules, nothing has moved, or the runtime shows none.

    Also where the mean has hardly moved: what raises some prompts and lowers others, or drifts beyond what rounding
    explains without much damage to this task, has a place, too.

    Args:
        baseline: the reference's side.
        candidate: the model.
        metric: its m on the prompts that units are kept of, `[part]`.
        work: its notes say why a runtime shows no modules.
    """
    beside = baseline.beside
    if beside is None:
        return None
    layout, prompts = beside.layout, baseline.task.prompts(beside.z.index)
    reference = baseline.metric[list(prompts.index)].astype(np.float64)
    moved = np.abs(reference - metric[: len(prompts)])
    if moved.mean() <= STILL * np.abs(reference).mean():
        return None
    try:
        candidate.prove(prompts, layout.kind)
    except SiteError as error:
        work.notes.append(f"In which module of which layer damage is cannot be told: {error}")
        return None
    z = candidate.activations(prompts, layout.kind)
    z = z if baseline.spec.positions == "all" else z.answer_position()
    require_comparable(beside.z, z)
    reading = candidate.reading(layout.kind, beside.reading.tokens, z.amplitudes())
    return PlacingPlan(prompts, layout, *_repairing(beside, z, reading), reference, moved)


def left_of(reference: NDArray[np.float64], repaired: NDArray[Any], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each repair leaves of what moved each prompt, `[repairs]` of `[repairs, prompts]`; of no move, no share."""
    total = moved.mean()
    return np.asarray(np.abs(reference - repaired).mean(-1) / total if total else np.full(len(repaired), np.nan))


def place_damage(
    baseline: Recording, repaired: Repaired | None, candidate: NDArray[np.float64], part: Sample
) -> Placing | None:
    """Where the damage is.

    Args:
        baseline: the reference's side.
        repaired: what repairing modules did.
        candidate: m of the candidate in logits, `[part]`.
        part: the prompts that units are kept of.
    """
    beside = baseline.beside
    if repaired is None or beside is None:
        return None
    count, layout = len(beside.z.index), beside.layout
    reference = baseline.metric[list(beside.z.index)].astype(np.float64)
    candidate, weights = candidate[:count], part.weights[:, :count]
    moved = np.abs(reference - candidate)
    alone, together = (left_of(reference, found, moved) for found in (repaired.alone, repaired.together))
    recovered = recovery(reference, candidate, repaired.alone, weights, part.level)
    enough = np.flatnonzero(together <= FEW)
    fewest = int(enough[0]) + 1 if len(enough) else 0
    labels = [layout.label(unit) for unit in layout.units]
    return Placing(
        prompts=count,
        modules=tuple(
            Module(
                unit=labels[place],
                layer=layout.layer(unit),
                column=layout.column(unit),
                recovery=recovered[place],
                left=float(alone[place]),
                drift=float(repaired.drift[place]),
            )
            for place, unit in enumerate(layout.units)
        ),
        culprits=tuple(labels[place] for place in repaired.order[:fewest]),
        left=float(together[fewest - 1]),
    )


def _repairing(beside: Beside, z: Activations, reading: Reading) -> tuple[Activations, NDArray[np.float64]]:
    """The reference's outputs in the candidate's coordinates, and how far those of the candidate have moved.

    The residual stream is one, so that where its coordinates are other ones, all modules' outputs are solved for at
    once, through the one map that reads them.
    """
    # Group by group, because what they write is much larger than the values that it is made of.
    places = range(len(z.groups))
    drift = relative_drift(joined_sums([drift_sums(*_written(beside, z, reading, place)) for place in places]))
    if reading.source == "sketch" or not _is_turned(beside.reading.maps[0], reading.maps[0]):
        return beside.z, drift
    written = (_written(beside, z, reading, place) for place in places)
    change = [ours.groups[0] - theirs.groups[0] for ours, theirs in written]
    stacked, wanted = (replace(z, groups=(np.concatenate(groups),)) for groups in (z.groups, change))
    found = reading.of_group(0).moved(stacked, wanted).groups[0]
    return replace(z, groups=tuple(np.split(found, len(z.groups)))), drift


def _written(beside: Beside, z: Activations, reading: Reading, place: int) -> tuple[Activations, Activations]:
    """What one group of the reference, and of the candidate, writes."""
    sides = (beside.reading, beside.z), (reading, z)
    ours, theirs = (read.of_group(place).writes(values.of_group(place)) for read, values in sides)
    return ours, theirs


def _is_turned(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> bool:
    """Whether the stream is read by another map of the same size: it is in other coordinates.

    By the map and not by what it reads, which damage moves, too. Rounding it to 4 bits moves it by a tenth.
    """
    size, other = float(np.linalg.norm(ours)), float(np.linalg.norm(theirs))
    return abs(size - other) <= SAME_SIZE * size and float(np.linalg.norm(ours - theirs)) > TURNED * size
