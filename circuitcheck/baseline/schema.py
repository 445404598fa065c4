"""What a golden baseline's JSON holds, as types and ranges that any file is validated against.

To keep another field, add it to `Document` here, and to `Recording`, `content_of` and `recording_of` in `encoding.py`;
another array is a line in `arrays.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from circuitcheck.core.specification import Ablation, MeasurementSpec

SCHEMA = 8
MOST_UNITS, MOST_POPULATION, MOST_GROUPS = 250_000, 2**23, 10_000

Word = Annotated[str, Meta(max_length=300)]
Prose = Annotated[str, Meta(max_length=20_000)]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=0, le=2**31)]
Size = Annotated[int, Meta(ge=1, le=2**24)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Measure = Literal["drift", "ranking_change", "profile_distance", "metric_change"]
Interval = tuple[float, float, float]


class Form(Struct, forbid_unknown_fields=True):
    """A JSON object of these keys and no others."""


class TaskForm(Form):
    """A task; its prompts are in the arrays."""

    name: Word
    clusters: Annotated[list[Word], Meta(min_length=1)]


class GroupForm(Form, omit_defaults=True):
    """A group of units; see `circuitcheck.core.units.Group`. Which they are of all is left out where they are all."""

    name: Word
    layer: Count
    count: Size
    width: Size
    numbered: bool
    of: Annotated[int, Meta(ge=0, le=2**24)] = 0
    numbers: Annotated[list[Count], Meta(max_length=MOST_UNITS)] = msgspec.field(default_factory=list)


class LayoutForm(Form):
    """All units of one kind."""

    kind: Word
    groups: Annotated[list[GroupForm], Meta(min_length=1, max_length=MOST_GROUPS)]


class ReadingForm(Form):
    """How units are read; the maps are in the arrays, one for each group, or one that all groups share."""

    source: Literal["unembedding", "embedding", "sketch"]
    tokens: Size
    maps: Size


class PopulationForm(Form):
    """All units, of which the layout has some; their values are in the arrays."""

    groups: Annotated[list[GroupForm], Meta(min_length=1, max_length=MOST_GROUPS)]


class BesideForm(Form):
    """Units of another kind; their values are in the arrays."""

    layout: LayoutForm
    reading: ReadingForm


class DictionaryForm(Form):
    """A dictionary; see `circuitcheck.core.features.DictionaryFacts`."""

    group: Word
    architecture: Word
    fingerprint: Hash
    latents: Size
    active: Count
    explained: Annotated[float, Meta(le=1)]


class FeaturesForm(Form):
    """Features; their values, and the rows of the embedding, are in the arrays."""

    dictionaries: Annotated[list[DictionaryForm], Meta(min_length=1, max_length=MOST_GROUPS)]
    basis: Annotated[int, Meta(ge=0, le=2**24)]


class RoutesForm(Form):
    """A router of a mixture; its choice is in the arrays."""

    layer: Count
    experts: Size


class ModelForm(Form):
    """The reference."""

    name: Word
    architecture: dict[Word, Word | int]


class EnvironmentForm(Form, omit_defaults=True):
    """What executed the reference; a runtime that needs no package of ours leaves its version out."""

    device: Word
    instruction_set: Word
    libraries: dict[Word, Word]
    python: Word
    circuitcheck: Word = ""


class FingerprintsForm(Form):
    """SHA-256 of what was measured."""

    weights: Word
    tokenizer: Word
    prompts: Hash
    spec: Hash


class ArraysForm(Form):
    """Which arrays belong to this JSON: the file, and the beginning of each one's SHA-256, so that a diff names it."""

    sha256: Hash
    bytes: Annotated[int, Meta(ge=1)]
    each: dict[Word, Word]


class RoundingForm(Form):
    """One way in which the reference was rounded; what that did to it is in the arrays."""

    precision: Word
    name: Word


class SummaryForm(Form):
    """What a reviewer reads; all of it follows from the arrays."""

    competence: dict[str, Any]
    roundings: list[dict[str, str | float]]
    units: list[dict[str, str | float | Interval]]


class Document(Form):
    """The whole JSON.

    Attributes:
        ablations: kinds of ablation that were measured, in order.
        noise: instruction set to source to measure to the largest change.
        population: all units, where the layout has some of them.
        beside: units of another kind, by whose repair damage is placed.
        features: what is kept of features; left out of all other kinds of unit.
        routes: routers whose choice is kept; left out where there are none.
        next_token: whether the arrays say what comes next after each solved prompt.
    """

    schema: Literal[8]
    model: ModelForm
    task: TaskForm
    layout: LayoutForm
    reading: ReadingForm
    population: PopulationForm | None
    beside: BesideForm | None
    spec: MeasurementSpec
    fingerprints: FingerprintsForm
    ablations: Annotated[list[Ablation], Meta(min_length=1, max_length=3)]
    noise: dict[Word, dict[Word, dict[Measure, NotNegative]]]
    ceiling: Share | None
    next_token: bool
    roundings: Annotated[list[RoundingForm], Meta(max_length=1000)]
    environment: EnvironmentForm
    reason: Prose
    notes: list[Prose]
    arrays: ArraysForm
    summary: SummaryForm
    checksum: Hash
    features: FeaturesForm | None = None
    routes: Annotated[list[RoutesForm], Meta(min_length=1, max_length=MOST_GROUPS)] | None = None
