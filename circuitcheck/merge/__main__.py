"""`python -m circuitcheck.merge OUT SHARD...`: one report, or one set of baselines, from the parts of a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.core.people import plain_lines, visible
from circuitcheck.merge.baselines import merge_baselines
from circuitcheck.merge.part import Part, read_parts
from circuitcheck.merge.report import merged_report, require_folder
from circuitcheck.plugin.closing import verdict_code, verdict_line
from circuitcheck.plugin.files import remove_reports, workflow_commands, write_files
from circuitcheck.plugin.settings import Settings
from circuitcheck.report.compare import load_report
from circuitcheck.report.rows import outcome
from circuitcheck.report.text import render_comparison, render_entries


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: those after the program's name; the process's own if not given.

    Returns:
        The exit code that one run of everything would have had; 4 where the parts cannot be used.
    """
    parser = argparse.ArgumentParser(
        "python -m circuitcheck.merge",
        description="Puts together what `pytest --circuit-shard I/N --circuit-report-dir DIR` left of each part: the "
        "report of a gate, or the baselines of a recording, as one run of everything would have written them.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the report's folder, or the folder of all baselines")
    parser.add_argument("parts", metavar="SHARD", type=Path, nargs="+", help="shard-I-of-N.json, or folders of them")
    parser.add_argument("--compare", metavar="REPORT", type=Path, help="say what changed since that report.json")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="draw the figures into DIR")
    given = parser.parse_args(arguments)
    try:
        require_folder(given.out)
        parts = read_parts(given.parts)
        if parts[0].report is None:
            return _merge_recordings(parts, given.out)
        return _merge_gates(parts, given.out, given.compare, given.figures)
    except CircuitcheckError as error:
        sys.stderr.write(plain_lines(f"circuitcheck: {error}") + "\n")
        return int(pytest.ExitCode.USAGE_ERROR)


def _merge_recordings(parts: Sequence[Part], out: Path) -> int:
    files = merge_baselines(parts, out)
    for part in parts:
        for circuit, (outcome_line, *details) in part.outcomes.items():
            _say(plain_lines(f"{circuit}: {outcome_line}"))
            for line in details:
                _say(plain_lines(f"  {line}"))
    for file in files:
        _say(plain_lines(f"wrote {file}"))
    return int(pytest.ExitCode.OK)


def _merge_gates(parts: Sequence[Part], out: Path, compare: Path | None, figures: Path | None) -> int:
    old = None if compare is None else load_report(compare)
    document = merged_report(parts, old)
    remove_reports(out)
    allowed = parts[0].allowed
    settings = Settings(
        report_dir=out,
        figures=figures,
        allow_inconclusive="allow_inconclusive" in allowed,
        allow_incomplete="allow_incomplete" in allowed,
    )
    written = write_files(settings, document)
    found = outcome(document)
    code: int = pytest.ExitCode.INTERRUPTED if document["interrupted"] else pytest.ExitCode.TESTS_FAILED
    if not document["interrupted"] and not document["failed"]:
        code = verdict_code(settings, found, document["runs"], written)
    _say(render_entries(document["runs"]))
    if document["compare"]:
        _say("\n" + render_comparison(document["compare"]))
    for line, _ in written:
        _say(plain_lines(line))
    for command in workflow_commands(settings, document):
        sys.stdout.write(f"{command}\n")  # to be obeyed; strangers' words in it were escaped when it was made
    _say(verdict_line(document, code)[1])
    return int(code)


def _say(text: str) -> None:
    sys.stdout.write(f"{visible(text)}\n")


if __name__ == "__main__":
    sys.exit(main())
