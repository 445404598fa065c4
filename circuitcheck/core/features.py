"""What is known of the dictionaries that a model's features are read by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from circuitcheck.core.intervals import Estimate
from circuitcheck.core.population import Histogram

if TYPE_CHECKING:  # what criteria are read off is imported when tests are collected, without numpy
    from circuitcheck.core.activations import FloatArray
    from circuitcheck.core.prompts import Prompts
    from circuitcheck.core.reading import Reading
    from circuitcheck.core.units import Layout

LEAST_EXPLAINED = 0.5
"""Share of what passes a hook point that a dictionary must explain of the reference, before its features say anything
of it."""


@dataclass(frozen=True)
class DictionaryFacts:
    """One dictionary, on the prompts of one task.

    Attributes:
        group: the group of units that its features are.
        architecture: such as `topk`.
        fingerprint: SHA-256 of it.
        latents: how many it has.
        active: how many of them are above 0 at any position of the task's clean and counterfactual prompts.
        explained: share of the variance of what passes its hook point that its reconstruction has, over the positions
            of the clean prompts but the first, which in many models is a sink of another size.
    """

    group: str
    architecture: str
    fingerprint: str
    latents: int
    active: int
    explained: float


@dataclass(frozen=True)
class StreamBasis:
    """Rows of a token embedding, by which a rotation of the residual stream is found.

    Attributes:
        tokens: token ids, ascending.
        rows: float32 `[tokens, d_model]`.
    """

    tokens: tuple[int, ...]
    rows: FloatArray


@runtime_checkable
class ReadsFeatures(Protocol):
    """A runtime that can be given dictionaries; others have no features."""

    def on_task(self, prompts: Prompts, kind: str) -> ReadsFeatures:
        """A reference of which only the features are seen that are active on a task; itself for other kinds of unit.

        Args:
            prompts: all of the task.
            kind: of the units.
        """

    def read_like(self, prompts: Prompts, layout: Layout, reading: Reading, basis: StreamBasis | None) -> ReadsFeatures:
        """A candidate that is read as a reference was, in the reference's basis; itself for other kinds of unit.

        Args:
            prompts: on which it is told how much its dictionaries explain.
            layout: of the reference's features.
            reading: how the reference's are read in logits, which proves the basis.
            basis: of the reference's stream.

        Raises:
            CandidateError: its stream is kept in another basis, and no map to the reference's can be proven.
        """

    @property
    def fingerprints_of_dictionaries(self) -> dict[str, str]:
        """Group of units to the fingerprint of the dictionary that they are read by; none where it was given none."""

    @property
    def dictionaries(self) -> tuple[DictionaryFacts, ...]:
        """How well the dictionaries explain what passes, on the task that was named last; none before."""

    def stream_basis(self, kind: str) -> StreamBasis | None:
        """By what a candidate's rotation is found; None where no features are read, or no token embedding is known."""


LEAST_CORRELATION = 0.9
"""A feature survives where its values in reference and candidate correlate by at least so much over the same tokens
(Pearson's r, as arXiv:2606.03002 measures survival); one that is the same at all of them, where it has moved by no more
than such a correlation leaves of two vectors of one size."""


@dataclass(frozen=True)
class FeatureMeasure:
    """One feature on the same tokens in reference and candidate.

    Attributes:
        unit: its label.
        layer: from 0.
        activation_ref: mean of the reference's values, in the unit of its hook point.
        activation_cand: the same of the candidate's.
        correlation: Pearson's r; NaN where either is the same at all tokens.
        difference: norm(f_ref - f_cand) / norm(f_ref).
        survives: whether the correlation reaches `LEAST_CORRELATION`.
    """

    unit: str
    layer: int
    activation_ref: float
    activation_cand: float
    correlation: float
    difference: float
    survives: bool


@dataclass(frozen=True)
class FeaturesMeasure:
    """All features of a task, beside what is measured of every kind of unit.

    Attributes:
        dictionaries: what they are read by, and how much of the reference these explain.
        explained: how much of the candidate, in the same order.
        active: how many features are on at any of the tokens.
        surviving: share of these that survive.
        expected: the least that plain rounding to the candidate's precision leaves of it; None where that is not known.
        correlation: of those that have one.
        difference: of all.
        features: of those that were measured like heads, and of those others that do not survive and were on most.
    """

    dictionaries: tuple[DictionaryFacts, ...]
    explained: tuple[float, ...]
    active: int
    surviving: Estimate
    expected: float | None
    correlation: Histogram
    difference: Histogram
    features: tuple[FeatureMeasure, ...]
