"""Features of a dictionary: what the reference's are on a task, and which of them survive in a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import cast

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.feature_record import FeatureRecord
from circuitcheck.baseline.recording import Recording
from circuitcheck.core.errors import CandidateError, StaleBaselineError
from circuitcheck.core.features import (
    LEAST_CORRELATION,
    DictionaryFacts,
    FeatureMeasure,
    FeaturesMeasure,
    ReadsFeatures,
)
from circuitcheck.core.intervals import Estimate
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.runtime import Runtime
from circuitcheck.gate.many import CORRELATION_EDGES, DRIFT_EDGES, histogram, parts
from circuitcheck.gate.sample import Sample
from circuitcheck.stats.correlation import PairedSums, correlation, relative_difference
from circuitcheck.stats.estimate import estimate
from circuitcheck.verdict.limits import SAME_BITS

EXACT = "f32"
"""The precision that rounds nothing, so that all features are to survive."""

LOST = 32
"""Features that do not survive and are listed though they were not measured, those first that were on most."""

CHUNK = 256
"""Features whose bootstrap draws are in memory at once."""


@dataclass(frozen=True)
class ComparedFeatures:
    """Both sides' features on the same tokens.

    Attributes:
        sums: of all that are active on the task, `[features, part]`.
        dictionaries: what they explain of the candidate.
    """

    sums: PairedSums
    dictionaries: tuple[DictionaryFacts, ...]


def on_task(model: Runtime, prompts: Prompts, kind: str) -> Runtime:
    """A reference of which only those units are seen that are active on a task; all of other kinds than features."""
    return cast(Runtime, model.on_task(prompts, kind)) if isinstance(model, ReadsFeatures) else model


def record_features(model: Runtime, part: Prompts, kind: str) -> FeatureRecord | None:
    """What is kept of a reference's features; None of other kinds of unit.

    Args:
        model: the reference on its task.
        part: the prompts that values of units are kept of.
        kind: of the units.
    """
    if not isinstance(model, ReadsFeatures) or not model.dictionaries or not part.index:
        return None
    layout, tokens, units, values, before = model.layout(kind), [], [], [], 0
    for some in parts(part, layout):
        found = model.activations(some, kind)
        dense = np.concatenate([group[..., 0] for group in found.groups], axis=1)
        rows, columns = np.nonzero(dense)
        tokens.append((rows + before).astype(np.int32))
        units.append(columns.astype(np.int32))
        values.append(dense[rows, columns])
        before += len(dense)
    return FeatureRecord(
        model.dictionaries,
        layout,
        np.concatenate(tokens),
        np.concatenate(units),
        np.concatenate(values),
        model.stream_basis(kind),
        np.zeros(0, np.float32),
    )


def read_like(candidate: Runtime, baseline: Recording) -> Runtime:
    """A candidate whose features are read as the reference's were; itself where these are no features.

    Raises:
        StaleBaselineError: the baseline was recorded with other dictionaries.
        CandidateError: no features of it can be read, or it keeps them in a basis that cannot be told.
    """
    features = baseline.features
    if features is None:
        return candidate
    if not isinstance(candidate, ReadsFeatures):
        raise CandidateError(
            f"candidate {candidate.facts.name} is executed by a runtime that reads no features. Gate its heads."
        )
    _require_same(features, candidate.fingerprints_of_dictionaries, baseline)
    return cast(
        Runtime, candidate.read_like(baseline.task.prompts(), baseline.layout, baseline.reading, features.basis)
    )


def _require_same(features: FeatureRecord, given: dict[str, str], baseline: Recording) -> None:
    ours = features.fingerprints
    other = [
        f"{name}: recorded {ours.get(name, 'none')[:12]}, now {given.get(name, 'none')[:12]}"
        for name in sorted({*ours, *given})
        if ours.get(name) != given.get(name)
    ]
    if other:
        raise StaleBaselineError(
            f"the golden baseline of {baseline.model} on {baseline.task.name!r} was recorded with other dictionaries, "
            f"so nothing was compared: {'; '.join(other)}. Name the same ones, --circuit-unit feature:PATH for each."
        )


def compare_features(baseline: Recording, candidate: Runtime) -> ComparedFeatures | None:
    """All of the task's features on the same tokens; None of other kinds of unit.

    Raises:
        CandidateError: values that are not finite.
    """
    features = baseline.features
    if features is None or not isinstance(candidate, ReadsFeatures):
        return None
    everyone, kind = candidate.narrowed(features.layout), baseline.spec.unit
    count, prompts = len(features.layout.units), len(baseline.part)
    sums = {name: np.zeros((count, prompts)) for name in ("x", "y", "xx", "yy", "xy")}
    lengths = np.array([len(baseline.task.pairs[place].clean) for place in baseline.part.index])
    prompt_of = np.repeat(np.arange(prompts), lengths)
    place = (features.units, prompt_of[features.tokens])
    own = features.values.astype(np.float64)
    np.add.at(sums["x"], place, own)
    np.add.at(sums["xx"], place, own**2)
    before = 0
    for some in parts(baseline.part, features.layout):
        found = everyone.activations(some, kind)
        dense = np.concatenate([group[..., 0] for group in found.groups], axis=1).astype(np.float64)
        if not np.isfinite(dense).all():
            raise CandidateError(f"features of candidate {candidate.facts.name} are NaN or infinite.")
        columns = [baseline.part.columns[one] for one in some.index]
        sums["y"][:, columns], sums["yy"][:, columns] = found.per_prompt(dense), found.per_prompt(dense**2)
        here = (features.tokens >= before) & (features.tokens < before + len(dense))
        products = own[here] * dense[features.tokens[here] - before, features.units[here]]
        np.add.at(sums["xy"], (place[0][here], place[1][here]), products)
        before += len(dense)
    return ComparedFeatures(PairedSums(lengths.astype(np.float64), **sums), candidate.dictionaries)


def with_survivors(baseline: Recording, survivors: Sequence[float]) -> FeatureRecord | None:
    """What is kept of features, and which share of them survives each rounding."""
    if baseline.features is None:
        return None
    return replace(baseline.features, surviving=np.array(survivors, np.float32))


def measure_features(
    baseline: Recording, found: ComparedFeatures | None, part: Sample, precision: str
) -> FeaturesMeasure | None:
    """Which of the task's features survive; None of other kinds of unit."""
    features = baseline.features
    if features is None or found is None:
        return None
    means = found.sums.total()
    is_on = means.xx > 0
    related, moved = correlation(means), relative_difference(means)
    alive = survives(related, moved)
    drawn = _drawn_shares(found.sums, part.weights)
    return FeaturesMeasure(
        dictionaries=features.dictionaries,
        explained=tuple(one.explained for one in found.dictionaries),
        active=int(is_on.sum()),
        surviving=_share(alive[is_on], drawn, part.level),
        expected=1.0 if precision == EXACT else _expected(baseline, SAME_BITS.get(precision, precision)),
        correlation=histogram(related[is_on & ~np.isnan(related)], CORRELATION_EDGES),
        difference=histogram(moved[is_on], DRIFT_EDGES),
        features=_listed(baseline, features, means, related, moved, alive),
    )


def survives(related: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether features survive, by correlation and relative difference `[..., features]`."""
    as_far = sqrt(2 - 2 * LEAST_CORRELATION)
    return np.where(np.isnan(related), moved <= as_far, related >= LEAST_CORRELATION)


def _drawn_shares(sums: PairedSums, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share that survives on every draw, of those that are on, `[draws]`."""
    alive, on = np.zeros(len(weights)), np.zeros(len(weights))
    for start in range(0, len(sums.x), CHUNK):
        means = sums.of(slice(start, start + CHUNK)).drawn(weights)
        is_on = means.xx > 0
        alive += (survives(correlation(means), relative_difference(means)) & is_on).sum(1)
        on += is_on.sum(1)
    return alive / np.maximum(on, 1)


def _share(alive: NDArray[np.bool_], drawn: NDArray[np.float64], level: float) -> Estimate:
    """The share, with where as many draws lie around their own mean, which few tokens bias."""
    value = float(alive.mean()) if len(alive) else 0.0
    return estimate(value, np.clip(drawn - drawn.mean() + value, 0.0, 1.0), level)


def _expected(baseline: Recording, precision: str) -> float | None:
    assert baseline.features is not None
    known = [
        float(share)
        for one, share in zip(baseline.roundings, baseline.features.surviving, strict=False)
        if one.precision == precision
    ]
    return min(known, default=None)


def _listed(
    baseline: Recording,
    features: FeatureRecord,
    means: PairedSums,
    related: NDArray[np.float64],
    moved: NDArray[np.float64],
    alive: NDArray[np.bool_],
) -> tuple[FeatureMeasure, ...]:
    """Those that were measured, in order, and then those others that were on most and do not survive."""
    layout = features.layout
    places = {layout.label(unit): place for place, unit in enumerate(layout.units)}
    measured = [places[baseline.layout.label(unit)] for unit in baseline.layout.units]
    lost = np.flatnonzero(~alive & (means.xx > 0) & ~np.isin(np.arange(len(alive)), measured))
    lost = lost[np.argsort(-means.xx[lost], kind="stable")][:LOST]
    tokens = float(means.tokens)
    return tuple(
        FeatureMeasure(
            unit=layout.label(layout.units[place]),
            layer=layout.layer(layout.units[place]),
            activation_ref=float(means.x[place] / tokens),
            activation_cand=float(means.y[place] / tokens),
            correlation=float(related[place]),
            difference=float(moved[place]) if moved[place] < inf else inf,
            survives=bool(alive[place]),
        )
        for place in (*measured, *lost.tolist())
    )
