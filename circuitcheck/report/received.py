"""Reports that somebody else may have written: what is read of them again, as types that they are validated against."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from circuitcheck.core.results import Relation, Word

Name = Annotated[str, Meta(max_length=1000)]
Number = float | None
"""None where it is undefined."""


class Value(Struct):
    """A measured value and its interval."""

    value: Number
    interval: tuple[Number, Number]


class Limit(Struct):
    """A limit that lets in more than its default."""

    name: Name
    relation: Relation
    limit: float
    default: float


class Criterion(Struct):
    """A measure beside its limit."""

    name: Name
    relation: Relation
    limit: float
    verdict: Word
    value: Value


class Unit(Struct):
    """A unit of the candidate."""

    unit: Name
    importance_cand: Value
    drift: Number
    rank_cand: int | None


class Run(Struct):
    """One candidate on one task in units of one kind."""

    candidate: Name
    task: Name
    unit: Name
    model: Name
    verdict: Word
    criteria: list[Criterion]
    broken: list[Name]
    units: list[Unit]
    fingerprints: dict[Name, Name] = {}
    loosened: list[Limit] = []


class Report(Struct):
    """The whole report; what else stands in it is not read."""

    schema: int
    complete: bool
    expected_runs: Annotated[int, Meta(ge=0)]
    environment: dict[Name, Name | dict[Name, Name]]
    runs: list[Run]
    verdict: Name | None = None


def require_report(found: Any) -> None:
    """Nothing, if it has everything that is read of a report.

    Raises:
        ValueError: names the place.
    """
    msgspec.convert(found, Report)
