"""The end of a run: tables, report files and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from circuitcheck.core.errors import CircuitcheckError, ConfigurationError
from circuitcheck.core.phrases import first_lines
from circuitcheck.plugin.session import GateSession
from circuitcheck.report.fields import Entry

NOTHING_COMPARED = (
    "No candidate was compared with its golden baseline, so this run says nothing. The gate's tests were not selected: "
    "run `pytest --pyargs circuitcheck.suite --circuit-report`, or leave out -k, -m, --lf or the path."
)
NOTHING_TO_COMPARE = (
    "The reference does not solve any of these tasks, so no candidate was compared and this run says nothing. "
    "Give prompts that it solves."
)
STOPPED = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
"""Exit codes of runs that did not come to their end."""

NOT_SELECTED = (
    "the gate's tests were not selected. Run `pytest --pyargs circuitcheck.suite`, or leave out "
    "-k, -m, --lf or the path."
)


def finish(session: GateSession, code: int | pytest.ExitCode, *, was_cut: bool = False) -> int | pytest.ExitCode:
    """Writes what was accepted, or the report where that was asked for, and decides the exit code.

    Args:
        session: the run's.
        code: what pytest would exit with.
        was_cut: whether the run ended before every test of it did, by -x say.

    Returns:
        Exit codes of pytest's own, but never 0 when the report is not green or cannot be written.
    """
    settings = session.settings
    if settings.writes_baselines:
        is_written = session.write_accepted(was_stopped=was_cut or code in STOPPED)
        if code != pytest.ExitCode.OK:
            return code
        if not is_written:
            return pytest.ExitCode.TESTS_FAILED
        return code if session.accepted else pytest.ExitCode.NO_TESTS_COLLECTED
    if not settings.is_reported:
        return code
    entries = session.entries()
    is_written = _write(session, code)
    if code != pytest.ExitCode.OK:
        return code
    allowed = {"PASS", "INCONCLUSIVE"} if settings.allow_inconclusive else {"PASS"}
    if not is_written or not {entry["verdict"] for entry in entries} <= allowed:
        return pytest.ExitCode.TESTS_FAILED
    return code if any(entry["criteria"] for entry in entries) else pytest.ExitCode.NO_TESTS_COLLECTED


def show(session: GateSession, terminal: pytest.TerminalReporter, code: int | pytest.ExitCode) -> None:
    """Prints what the run found."""
    if session.settings.writes_baselines:
        _show_accepted(session, terminal)
    elif session.settings.is_reported:
        _show_report(session, terminal, code)


def _show_accepted(session: GateSession, terminal: pytest.TerminalReporter) -> None:
    done = "calibrated" if session.settings.calibrate else "accepted"
    terminal.section("golden baselines", "=")
    if not session.accepted:
        terminal.write_line(f"Nothing was {done}: {NOT_SELECTED}", red=True)
    for circuit, acceptance in session.accepted.items():
        if isinstance(acceptance, CircuitcheckError):
            terminal.write_line(
                f"{circuit}: could not be {done}, nothing was written: {first_lines(acceptance)}", red=True
            )
            continue
        terminal.write_line(f"{circuit}: {acceptance.outcome}", bold=True)
        for line in acceptance.details:
            terminal.write_line(f"  {line}")
    terminal.write_line("Nothing was compared in this run.")


def _show_report(session: GateSession, terminal: pytest.TerminalReporter, code: int | pytest.ExitCode) -> None:
    entries = session.entries()
    terminal.section("circuit report", "=")
    if not entries:
        terminal.write_line(NOTHING_COMPARED, red=True)
    else:
        from circuitcheck.report.text import render_entries

        terminal.write_line(render_entries(entries))
        settings = session.settings
        for line in unused_limits(settings.limits, settings.metric, entries, len(session.cases)):
            terminal.write_line(line, yellow=True)
        if session.document and session.document["compare"]:
            from circuitcheck.report.text import render_comparison

            terminal.write_line("\n" + render_comparison(session.document["compare"]))
        terminal.write_line("")
        line, colour = gate_line(entries, len(session.cases), was_stopped=code in STOPPED)
        terminal.write_line(line, bold=True, **{colour: True})
        if not any(entry["criteria"] or entry["verdict"] == "FAIL" for entry in entries):
            terminal.write_line(NOTHING_TO_COMPARE, red=True)
    for line, is_good in session.written:
        terminal.write_line(line, red=not is_good)
    for line in session.commands:  # in columns of their own: a workflow reads whole lines
        terminal.write_line(line)


def _write(session: GateSession, code: int | pytest.ExitCode) -> bool:
    """Whether everything could be written; what to say of it is left in `session.written`."""
    from circuitcheck.plugin.files import run_document, workflow_commands, write_files

    try:
        document = run_document(session.settings, session.entries(), len(session.cases), interrupted=code in STOPPED)
    except ConfigurationError as error:
        session.written.append((str(error), False))
        return False
    session.document = document
    session.written += write_files(session.settings, document)
    session.commands += workflow_commands(session.settings, document)
    return all(is_good for _, is_good in session.written)


def gate_line(entries: Sequence[Entry], expected: int, *, was_stopped: bool = False) -> tuple[str, str]:
    """The gate in one line, and its colour. Green only if everything was compared and passes, in a run that ended."""
    from circuitcheck.report.rows import outcome

    found = outcome(entries, expected, interrupted=was_stopped)
    colour = {"FAIL": "red", "PASS": "green"}.get(found.word, "yellow")
    return f"circuit gate: {found.word} ({found.listed})", colour


def unused_limits(limits: dict[str, Any], metric: str, entries: Sequence[Entry], expected: int) -> list[str]:
    """Limits that nothing in a complete run was held against: of other precisions, misspelt tasks or other metrics."""
    from circuitcheck.verdict.criteria import criteria_for
    from circuitcheck.verdict.limits import SAME_BITS

    precisions = {entry["precision"] for entry in entries}
    precisions |= {SAME_BITS.get(name, name) for name in precisions}
    if len(entries) < expected or None in precisions:
        return []
    tables = {name: table for name, table in limits.items() if isinstance(table, dict)}
    unused = [f"{name}: no candidate has that precision" for name in tables if name not in precisions]
    tasks = {entry["task"] for entry in entries}
    unused += [
        f"{name}.{task}: no task is called so"
        for name, table in tables.items()
        for task in table
        if isinstance(table[task], dict) and task not in tasks
    ]
    held = {criterion.limit_name for criterion in criteria_for(metric)}
    unused += [
        f"{name}: {metric} is judged in another unit" for name in dict.fromkeys(_named(limits)) if name not in held
    ]
    return [f"note: limits that nothing in this run was held against: {item}" for item in unused]


def _named(limits: dict[str, Any]) -> list[str]:
    found = [_named(value) if isinstance(value, dict) else [name] for name, value in limits.items()]
    return [name for names in found for name in names]
