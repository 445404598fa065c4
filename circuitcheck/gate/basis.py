"""A candidate's units beside the reference's, in whatever basis and whatever order the candidate keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.activations import Activations
from circuitcheck.core.reading import Reading
from circuitcheck.core.results import Basis
from circuitcheck.core.runtime import Runtime
from circuitcheck.core.units import Unit
from circuitcheck.stats.drift import DriftSums, drift_sums, relative_drift

CLEARLY = 0.25
"""A unit plays another's part where the squared distance of their writes is below this share of that to its own."""


CHANGED, CHANGED_TIMES = 0.1, 2.0
"""A unit is kept in other coordinates where its values moved by more than this, and so many times as far as its write:
plain rounding moves both alike."""


@dataclass(frozen=True)
class Written:
    """Both sides' units, those of the candidate in the order of the reference's.

    Attributes:
        order: for each group, which of the candidate's units plays the part of each of the reference's.
        reading: how the candidate's units are read.
        z: the candidate's values, as it keeps them.
        reference: what the reference's units write, in logits.
        candidate: what the candidate's do.
        moved: the reference's values, moved so that they write what the candidate's do.
        repair: the candidate's values, moved so that they write what the reference's do.
    """

    order: tuple[NDArray[np.intp], ...]
    reading: Reading
    z: Activations
    reference: Activations
    candidate: Activations
    moved: Activations
    repair: Activations

    def of_candidate(self, units: Sequence[Unit]) -> tuple[Unit, ...]:
        """The candidate's own units that play the part of the reference's."""
        return tuple((place, int(self.order[place][index])) for place, index in units)

    @property
    def repair_in_place(self) -> Activations:
        """`repair` in the candidate's own order."""
        groups = [values[:, np.argsort(places)] for values, places in zip(self.repair.groups, self.order, strict=True)]
        return replace(self.repair, groups=tuple(groups))

    @property
    def renumbered(self) -> dict[Unit, Unit]:
        """Units of the reference whose part another number plays in the candidate, to that one."""
        return {
            (place, index): (place, int(other))
            for place, places in enumerate(self.order)
            for index, other in enumerate(places)
            if index != other
        }

    def sums(self) -> DriftSums:
        """All that drift and cosine need of what units write."""
        return drift_sums(self.reference, self.candidate)


def compare_writes(baseline: Recording, candidate: Runtime, z: Activations) -> Written:
    """Reads both sides' units in logits, and finds out which of the candidate's plays which part.

    Args:
        baseline: the reference's side.
        candidate: the model that `z` is of.
        z: its values on the prompts and positions that the baseline keeps.

    Raises:
        CandidateError: values that cannot be compared.
        BaselineError: the reference's values are not finite.
    """
    amplitudes = [max(float(np.abs(group).max(initial=0.0)), 1e-6) for group in z.groups]
    reading = candidate.reading(baseline.spec.unit, baseline.reading.tokens, amplitudes)
    reference, writes = baseline.reading.writes(baseline.z), reading.writes(z)
    order = tuple(
        _matched(ours, theirs) for ours, theirs in zip(reference.in_double(), writes.in_double(), strict=True)
    )
    reading, z, writes = reading.reordered(order), _reordered(z, order), _reordered(writes, order)
    change = replace(
        writes, groups=tuple(theirs - ours for ours, theirs in zip(reference.groups, writes.groups, strict=True))
    )
    back = replace(change, groups=tuple(-group for group in change.groups))
    return Written(
        order=order,
        reading=reading,
        z=z,
        reference=reference,
        candidate=writes,
        moved=baseline.reading.moved(baseline.z, change),
        repair=reading.moved(z, back),
    )


def coordinates_drift(baseline: Recording, written: Written) -> NDArray[np.float64]:
    """How far the units' values have moved in the coordinates that each model keeps them in, relative, `[units]`."""
    return relative_drift(drift_sums(baseline.z, written.z))


def basis_of(baseline: Recording, written: Written) -> Basis:
    """In which coordinates the candidate keeps its units."""
    layout, sums = baseline.layout, written.sums()
    values, writes = coordinates_drift(baseline, written), relative_drift(sums)
    changed = [
        place
        for place, (z, write) in enumerate(zip(values, writes, strict=True))
        if z > max(CHANGED, CHANGED_TIMES * write)
    ]
    said = replace(written.candidate, groups=baseline.reading.writes(written.moved).groups)
    # A unit that writes nothing leaves nothing unsaid, though nothing has no relative part.
    left = np.where(sums.candidate.sum(-1) > 0, relative_drift(drift_sums(written.candidate, said)), 0.0)
    return Basis(
        source=written.reading.source,
        tokens=len(written.reading.tokens),
        changed=tuple(layout.label(layout.units[place]) for place in changed),
        largest_drift_z=float(values[changed].max(initial=0.0)),
        largest_drift=float(writes[changed].max(initial=0.0)),
        renumbered={layout.label(unit): layout.label(other) for unit, other in written.renumbered.items()},
        unread=float(left.max(initial=0.0)),
    )


def _matched(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which unit of the candidate writes what each of the reference's does; the same number unless clearly another.

    Args:
        reference: writes of one group, `[positions, count, tokens]`.
        candidate: the same.
    """
    count = reference.shape[1]
    ours, theirs = (side.transpose(1, 0, 2).reshape(count, -1) for side in (reference, candidate))
    same = np.arange(count)
    if count == 1 or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return same
    squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None] - 2 * ours @ theirs.T
    found = linear_sum_assignment(squares)[1]
    moved = found != same
    is_clear = (squares[same, found] < CLEARLY * squares[same, same])[moved].all()
    return found if moved.any() and is_clear else same


def _reordered(values: Activations, order: tuple[NDArray[np.intp], ...]) -> Activations:
    return replace(values, groups=tuple(group[:, places] for group, places in zip(values.groups, order, strict=True)))
