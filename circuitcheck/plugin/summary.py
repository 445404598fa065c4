"""The end of a run: tables, report files and the exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from circuitcheck.plugin.session import GateSession
from circuitcheck.report.fields import Entry

NOTHING_COMPARED = (
    "No candidate was compared with its golden baseline, so this run says nothing. The gate's tests were not selected: "
    "run `pytest --pyargs circuitcheck.suite --circuit-report`, or leave out -k, -m, --lf or the path."
)


def exit_code(session: GateSession, code: int | pytest.ExitCode) -> int | pytest.ExitCode:
    """Exit codes of pytest's own, but never 0 when the report is not green.

    Args:
        session: the run's.
        code: what pytest would exit with.
    """
    settings = session.settings
    if not settings.report or settings.accept or code != pytest.ExitCode.OK:
        return code
    entries = session.entries()
    if not entries:
        return pytest.ExitCode.NO_TESTS_COLLECTED
    allowed = {"PASS", "INCONCLUSIVE"} if settings.allow_inconclusive else {"PASS"}
    return code if {entry["verdict"] for entry in entries} <= allowed else pytest.ExitCode.TESTS_FAILED


def show(session: GateSession, terminal: pytest.TerminalReporter) -> None:
    """Prints what the run found, and writes `report.json` where that was asked for."""
    if session.settings.accept:
        _show_accepted(session, terminal)
    elif session.settings.report:
        _show_report(session, terminal)


def _show_accepted(session: GateSession, terminal: pytest.TerminalReporter) -> None:
    terminal.section("golden baselines", "=")
    if not session.accepted:
        terminal.write_line("Nothing was accepted: the gate's tests were not selected, or failed.", red=True)
    for acceptance in session.accepted.values():
        terminal.write_line(f"{acceptance.task}: {acceptance.outcome}", bold=True)
        for line in acceptance.details:
            terminal.write_line(f"  {line}")
    terminal.write_line("Nothing was compared in this run.")


def _show_report(session: GateSession, terminal: pytest.TerminalReporter) -> None:
    entries = session.entries()
    terminal.section("circuit report", "=")
    if not entries:
        terminal.write_line(NOTHING_COMPARED, red=True)
    else:
        from circuitcheck.report.text import render_entries

        terminal.write_line(render_entries(entries))
        terminal.write_line("")
        line, colour = gate_line(entries, len(session.cases))
        terminal.write_line(line, bold=True, **{colour: True})
    if session.settings.report_dir is not None:
        file = _write(session.settings.report_dir, entries, len(session.cases))
        terminal.write_line(f"wrote {file}")


def gate_line(entries: Sequence[Entry], expected: int) -> tuple[str, str]:
    """The gate in one line, and its colour. Green only if everything was compared and passes."""
    counts = {word: sum(entry["verdict"] == word for entry in entries) for word in ("PASS", "FAIL", "INCONCLUSIVE")}
    listed = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    if counts["FAIL"]:
        word, colour = "FAIL", "red"
    elif len(entries) < expected:
        word, colour = "INCOMPLETE", "yellow"
    elif counts["INCONCLUSIVE"]:
        word, colour = "INCONCLUSIVE", "yellow"
    else:
        word, colour = "PASS", "green"
    missing = expected - len(entries)
    return f"circuit gate: {word} ({listed}" + (f", {missing} of {expected} not compared)" if missing else ")"), colour


def _write(directory: Path, entries: list[Entry], expected: int) -> Path:
    from circuitcheck.baseline.atomic import write_atomically
    from circuitcheck.environment import environment
    from circuitcheck.report.document import document

    content: dict[str, Any] = document(entries, environment(), expected)
    file = directory / "report.json"
    write_atomically({file: (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()})
    return file
