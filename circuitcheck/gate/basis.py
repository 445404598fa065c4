"""A candidate's units beside the reference's, in whatever basis and whatever order the candidate keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.activations import Activations, require_comparable
from circuitcheck.core.reading import Reading, Source, in_order
from circuitcheck.core.results import Basis
from circuitcheck.core.runtime import Runtime
from circuitcheck.core.units import Unit
from circuitcheck.stats.drift import DriftSums, drift_sums, joined_sums, relative_drift

CLEARLY = 0.25
"""A unit plays another's part where the squared distance of their writes is below this share of that to its own."""

CHANGED, CHANGED_TIMES = 0.1, 2.0
"""A unit is kept in other coordinates where its values moved by more than this, and so many times as far as its write:
plain rounding moves both alike."""


@dataclass(frozen=True)
class Written:
    """Both sides' units, those of the candidate in the order of the reference's.

    Attributes:
        source: what the candidate's units are read through.
        order: for each group, which of the candidate's units plays the part of each of the reference's.
        coordinates: all that drift needs of the values themselves, in the coordinates that each model keeps them in.
        moved: the reference's values, moved so that they write what the candidate's do.
        repair: the candidate's values, moved so that they write what the reference's do.
        sums: all that drift and cosine need of what units write.
        at_answer: the same at the answer position alone.
        unread: share of each unit's write that cannot be said in the reference's coordinates, `[units]`.
    """

    source: Source
    order: tuple[NDArray[np.intp], ...]
    coordinates: DriftSums
    moved: Activations
    repair: Activations
    sums: DriftSums
    at_answer: DriftSums
    unread: NDArray[np.float64]

    def of_candidate(self, units: Sequence[Unit]) -> tuple[Unit, ...]:
        """The candidate's own units that play the part of the reference's."""
        return tuple((place, int(self.order[place][index])) for place, index in units)

    @property
    def repair_in_place(self) -> Activations:
        """`repair` in the candidate's own order."""
        own = zip(self.repair.groups, map(np.argsort, self.order), strict=True)
        return replace(self.repair, groups=tuple(in_order(values, places, 1) for values, places in own))

    @property
    def renumbered(self) -> dict[Unit, Unit]:
        """Units of the reference whose part another number plays in the candidate, to that one."""
        return {
            (place, index): (place, int(other))
            for place, places in enumerate(self.order)
            for index, other in enumerate(places)
            if index != other
        }


def compare_writes(baseline: Recording, candidate: Runtime, z: Activations) -> Written:
    """Reads both sides' units in logits, and finds out which of the candidate's plays which part.

    Group by group, because writes at many tokens are much larger than the values that they are made of.

    Args:
        baseline: the reference's side.
        candidate: the model that `z` is of.
        z: its values on the prompts and positions that the baseline keeps.

    Raises:
        CandidateError: values that cannot be compared.
        BaselineError: the reference's values are not finite.
    """
    require_comparable(baseline.z, z)
    reading = candidate.reading(baseline.spec.unit, baseline.reading.tokens, z.amplitudes())
    parts = [
        _compared(
            baseline.reading.of_group(place),
            baseline.z.of_group(place),
            reading.of_group(place),
            z.of_group(place),
            # A feature is what its dictionary says that it is, whatever another one writes.
            may_trade=baseline.features is None,
        )
        for place in range(len(z.groups))
    ]
    return Written(
        source=reading.source,
        order=tuple(part.order[0] for part in parts),
        coordinates=joined_sums([part.coordinates for part in parts]),
        moved=replace(z, groups=tuple(part.moved.groups[0] for part in parts)),
        repair=replace(z, groups=tuple(part.repair.groups[0] for part in parts)),
        sums=joined_sums([part.sums for part in parts]),
        at_answer=joined_sums([part.at_answer for part in parts]),
        unread=np.concatenate([part.unread for part in parts]),
    )


def _compared(
    read_ref: Reading, z_ref: Activations, read_cand: Reading, z_cand: Activations, *, may_trade: bool
) -> Written:
    """The same of one group."""
    reference, writes = read_ref.writes(z_ref), read_cand.writes(z_cand)
    order = np.arange(reference.groups[0].shape[1])
    if may_trade:
        order = _matched(reference.groups[0], writes.groups[0])
    reading = read_cand.reordered((order,))
    z, writes = (replace(side, groups=(in_order(side.groups[0], order, 1),)) for side in (z_cand, writes))
    sums, coordinates = drift_sums(reference, writes), drift_sums(z_ref, z)
    other = _in_other_coordinates(relative_drift(coordinates), relative_drift(sums))
    moved = _writing(writes, read_ref, _either(other, z_ref, z))
    left = drift_sums(writes, read_ref.writes(moved)).difference.sum(-1)
    size = np.maximum(sums.reference.sum(-1), sums.candidate.sum(-1))
    return Written(
        source=reading.source,
        order=(order,),
        coordinates=coordinates,
        moved=moved,
        repair=_writing(reference, reading, _either(other, z, z_ref)),
        sums=sums,
        at_answer=drift_sums(reference.answer_position(), writes.answer_position()),
        # A unit that neither side lets write anything has no share of it.
        unread=np.sqrt(left / np.where(size == 0, 1.0, size)),
    )


def _in_other_coordinates(z: NDArray[np.float64], write: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether units are kept in other coordinates, by how far their values and what they write have moved."""
    return np.asarray(z > np.maximum(CHANGED, CHANGED_TIMES * write))


def _either(first: NDArray[np.bool_], one: Activations, other: Activations) -> Activations:
    """Values of some units from the one, and of all others from the other."""
    return replace(one, groups=(np.where(first[:, None], one.groups[0], other.groups[0]),))


def _writing(wanted: Activations, reading: Reading, start: Activations) -> Activations:
    """The values nearest to `start` that write what is wanted; where that cannot be read, `start` itself.

    A unit in the same coordinates starts from the other side's value: of what the unembedding does not see, that is all
    there is to know.
    """
    change = wanted.groups[0] - reading.writes(start).groups[0]
    return reading.moved(start, replace(wanted, groups=(change,)))


def basis_of(baseline: Recording, written: Written) -> Basis:
    """In which coordinates the candidate keeps its units."""
    layout = baseline.layout
    values, writes = relative_drift(written.coordinates), relative_drift(written.sums)
    changed = np.flatnonzero(_in_other_coordinates(values, writes)).tolist()
    return Basis(
        source=written.source,
        tokens=len(baseline.reading.tokens),
        changed=tuple(layout.label(layout.units[place]) for place in changed),
        largest_drift_z=float(values[changed].max(initial=0.0)),
        largest_drift=float(writes[changed].max(initial=0.0)),
        renumbered={layout.label(unit): layout.label(other) for unit, other in written.renumbered.items()},
        unread=float(written.unread.max(initial=0.0)),
    )


def _matched(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> NDArray[np.intp]:
    """Which unit of the candidate writes what each of the reference's does; the same number unless clearly another.

    Args:
        reference: writes of one group, `[positions, count, tokens]`.
        candidate: the same.
    """
    count = reference.shape[1]
    ours, theirs = (side.transpose(1, 0, 2).reshape(count, -1).astype(np.float64) for side in (reference, candidate))
    same = np.arange(count)
    if count == 1 or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return same
    lengths = (np.einsum("cw,cw->c", side, side) for side in (ours, theirs))
    squares = np.add.outer(*lengths) - 2 * (ours @ theirs.T)
    found = linear_sum_assignment(squares)[1]
    is_clear = squares[same, found] < CLEARLY * squares[same, same]
    for _ in range(count):  # units that trade places with one that is not clear stay, too; others do not wait for them
        is_clear = is_clear & is_clear[found]
    return np.where(is_clear, found, same)
