"""One report from the parts of a gate: the same, byte for byte, that a run of all of it would have written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.phrases import first_lines, listed
from circuitcheck.merge.part import Part
from circuitcheck.report.contradictions import contradictions
from circuitcheck.report.document import document
from circuitcheck.report.received import require_report


def merged_report(parts: Sequence[Part], old: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The report of a whole run.

    Args:
        parts: all of them, in order; of a gate.
        old: an earlier report to compare with.

    Raises:
        ConfigurationError: a part's report is damaged, or contradicts its own numbers.
    """
    reports = [part.report for part in parts if part.report is not None]
    first = parts[0]
    try:
        for report, part in zip(reports, parts, strict=True):
            _require(report, part)
        merged = document(
            [run for report in reports for run in report["runs"]],
            first.expected,
            reports[0]["command"],
            reports[0]["settings"],
            old,
            interrupted=any(report["interrupted"] for report in reports),
            failed=any(report["failed"] for report in reports),
        )
        environment = next((run["environment"] for run in merged["runs"] if run["environment"]), None)
        # In the order in which a run of everything writes it.
        merged["environment"] = reports[0]["environment"] | (environment or {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"a part is damaged: {type(error).__name__}: {first_lines(error)}") from error
    return merged


def _require(report: dict[str, Any], part: Part) -> None:
    require_report(report)
    wrong = list(contradictions(report))
    if len(report["runs"]) > len(part.numbers):
        wrong.append(f"it has {len(report['runs'])} runs of {len(part.numbers)} cases")
    if wrong:
        raise ConfigurationError(
            f"part {part.file} contradicts itself: {listed(wrong, 3, '; ')}. Run that shard again."
        )


def require_folder(path: Path) -> None:
    """Refuses a file in the place of the folder that results are written to.

    Raises:
        ConfigurationError: it is one.
    """
    if path.exists() and not path.is_dir():
        raise ConfigurationError(f"{path} must be a directory, and this is a file.")
