"""The report as plain data: what `report.json` holds, what workers hand over, and what every rendering reads.

The schema is documented in docs/report.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING, Any

from circuitcheck.core.census import Census
from circuitcheck.core.features import FeaturesMeasure
from circuitcheck.core.modules import Placing
from circuitcheck.core.population import PopulationMeasure
from circuitcheck.core.results import (
    Association,
    Basis,
    BoundAudit,
    Estimate,
    Excess,
    Judgement,
    Loosened,
    Ranking,
    Repair,
    UnitMeasure,
    Verdict,
)
from circuitcheck.core.routes import RoutingMeasure
from circuitcheck.report.compare import compare
from circuitcheck.report.conversion import as_plain
from circuitcheck.report.fields import SCHEMA, Entry
from circuitcheck.report.rows import outcome

if TYPE_CHECKING:
    from circuitcheck.diagnostics.keep_list import KeepList


@dataclass(frozen=True)
class ReportRun:
    """One candidate on one task in units of one kind, with every key of an entry; what was not measured stays empty.

    Fields that a measurement or its circuit has too mean what they mean there. Further attributes:

    Attributes:
        verdict: FAIL also where nothing could be measured.
        message: why there are no criteria; else empty.
        noise: where the noise floor was seen.
        multiverse: the verdict under other specifications, where that was asked for.
        keep: what must stay in high precision, where that was asked for.
    """

    model: str
    candidate: str
    task: str
    unit: str = "head"
    precision: str | None = None
    metric: str | None = None
    verdict: str = "FAIL"
    message: str = ""
    prompts: int | None = None
    solved: int | None = None
    part: int | None = None
    clusters: int | None = None
    metric_ref: Estimate | None = None
    metric_cand: Estimate | None = None
    criteria: tuple[Judgement, ...] = ()
    loosened: tuple[Loosened, ...] = ()
    broken: tuple[str, ...] = ()
    units: tuple[UnitMeasure, ...] = ()
    repair: Repair | None = None
    ranking: Ranking | None = None
    drift: Estimate | None = None
    excess: Excess | None = None
    kl_divergence: Estimate | None = None
    changed_answers: Estimate | None = None
    bound: BoundAudit | None = None
    associations: Mapping[str, Association] | None = None
    basis: Basis | None = None
    population: PopulationMeasure | None = None
    features: FeaturesMeasure | None = None
    routing: RoutingMeasure | None = None
    placing: Placing | None = None
    noise_floor: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, Any] | None = None
    multiverse: Mapping[str, Any] | None = None
    keep: Mapping[str, Any] | None = None
    census: Census | None = None
    batch_size: int | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


KEEP = {
    "modules": (),
    "verdict": "FAIL",
    "measured": 0,
    "torchao": "",
    "compressed_tensors": "",
    "bitsandbytes": "",
    "llama_cpp": "",
    "onnxruntime": "",
    "message": "",
}
"""Keys of a keep list, and what stands there where none can be found, but for the reason in `message`."""


def document(
    entries: Iterable[Entry],
    expected: int | None = None,
    command: str = "",
    settings: str = "",
    old: Mapping[str, Any] | None = None,
    *,
    interrupted: bool = False,
    failed: bool = False,
) -> dict[str, Any]:
    """The whole report.

    Args:
        entries: one a candidate, task and kind of unit.
        expected: how many entries a complete run would have; as many as there are, if not given.
        command: what reproduces the run; empty where it was no command.
        settings: the file that settings came from; empty where there was none.
        old: an earlier report to compare with.
        interrupted: whether the run was stopped before its end.
        failed: whether anything in the run failed, be it a verdict, another test or a worker.
    """
    runs = list(entries)
    versions = {"circuitcheck": version("circuitcheck"), "python": python_version()}
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "command": command,
        "settings": settings,
        "environment": next((run["environment"] for run in runs if run["environment"]), versions),
        "complete": expected is None or len(runs) == expected,
        "interrupted": interrupted,
        "failed": failed,
        "expected_runs": len(runs) if expected is None else expected,
        "runs": runs,
    }
    return content | {"verdict": outcome(content).word, "compare": None if old is None else compare(old, content)}


def run_entry(verdict: Verdict) -> Entry:
    """One judged (candidate, task, kind of unit)."""
    sources = (verdict.measurement, verdict.measurement.circuit, verdict)
    names = [one.name for one in fields(ReportRun)]
    found = {name: getattr(source, name) for source in sources for name in names if hasattr(source, name)}
    notes = (*verdict.measurement.notes, *verdict.untold)
    return _plain(ReportRun(**found | {"verdict": verdict.word, "notes": notes}))


def failed_entry(model: str, candidate: str, task: str, message: str, unit: str = "head") -> Entry:
    """One that could not be measured or judged: a failure, with its reason."""
    return _plain(ReportRun(model, candidate, task, unit, message=message))


def keep_entry(keep: KeepList) -> Entry:
    """What stands under `keep` of a candidate that one was searched for."""
    return _plain({key: getattr(keep, key, empty) for key, empty in KEEP.items()})


def failed_keep_entry(message: str) -> Entry:
    """What stands there where none can be found, with its reason."""
    return _plain(KEEP | {"message": message})


def _plain(value: object) -> Entry:
    entry: Entry = as_plain(value)
    return entry
