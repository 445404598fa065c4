"""The end of a run: tables, report files and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.core.people import plain, plain_lines
from circuitcheck.core.phrases import first_lines
from circuitcheck.plugin.part_files import write_compared_part, write_recorded_part
from circuitcheck.plugin.say import command, say
from circuitcheck.plugin.session import GateSession
from circuitcheck.plugin.settings import INCOMPLETE, Settings
from circuitcheck.report.fields import Entry

if TYPE_CHECKING:
    from circuitcheck.plugin.files import Written
    from circuitcheck.report.rows import Outcome

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
        Exit codes of pytest's own, but never 0 when the report is not green or cannot be written, and `INCOMPLETE`
        where a part was not compared in CI.
    """
    settings = session.settings
    if settings.writes_baselines:
        is_written = session.write_accepted(was_stopped=was_cut or code in STOPPED)
        if settings.shard is not None:
            session.written += write_recorded_part(session)
            is_written = is_written and all(is_good for _, is_good in session.written)
        if code != pytest.ExitCode.OK:
            return code
        if not is_written:
            return pytest.ExitCode.TESTS_FAILED
        return code if session.accepted else pytest.ExitCode.NO_TESTS_COLLECTED
    if not settings.is_reported:
        return code
    found = _write(session, code)
    if code != pytest.ExitCode.OK:
        return code
    return verdict_code(settings, found, session.entries(), session.written)


def verdict_code(
    settings: Settings, found: Outcome, entries: Sequence[Entry], written: Sequence[Written]
) -> int | pytest.ExitCode:
    """The exit code of a run in which nothing else failed: 0 only where everything was compared and passes.

    Args:
        settings: what is allowed.
        found: what became of the run.
        entries: what was compared.
        written: what could be written of it.
    """
    is_red = found.word == "FAIL" or ("INCONCLUSIVE" in found.counts and not settings.allow_inconclusive)
    if is_red or not all(is_good for _, is_good in written):
        return pytest.ExitCode.TESTS_FAILED
    if not any(entry["criteria"] for entry in entries):
        return pytest.ExitCode.NO_TESTS_COLLECTED
    return pytest.ExitCode.OK if found.word in settings.green else INCOMPLETE


def show(session: GateSession, terminal: pytest.TerminalReporter) -> None:
    """Prints what the run found."""
    if session.settings.writes_baselines:
        _show_accepted(session, terminal)
    elif session.settings.is_reported:
        _show_report(session, terminal)


def _show_accepted(session: GateSession, terminal: pytest.TerminalReporter) -> None:
    done = "calibrated" if session.settings.calibrate else "accepted"
    terminal.section("golden baselines", "=")
    if not session.accepted:
        say(terminal, f"Nothing was {done}: {NOT_SELECTED}", red=True)
    for circuit, acceptance in session.accepted.items():
        if isinstance(acceptance, CircuitcheckError):
            failed = f"{circuit}: could not be {done}, nothing was written: {first_lines(acceptance)}"
            say(terminal, plain(failed), red=True)
            continue
        say(terminal, plain_lines(f"{circuit}: {acceptance.outcome}"), bold=True)
        for line in acceptance.details:
            say(terminal, plain_lines(f"  {line}"))
    _show_execution(session, terminal)
    for line, is_good in session.written:
        say(terminal, plain_lines(line), red=not is_good)
    say(terminal, "Nothing was compared in this run.")


def _show_execution(session: GateSession, terminal: pytest.TerminalReporter) -> None:
    for line in session.execution_lines:
        say(terminal, plain_lines(line))


def _show_report(session: GateSession, terminal: pytest.TerminalReporter) -> None:
    entries = session.entries()
    terminal.section("circuit report", "=")
    if not entries:
        say(terminal, NOTHING_COMPARED, red=True)
    else:
        from circuitcheck.report.text import render_entries

        say(terminal, render_entries(entries))
        say(terminal, plain_lines(f"settings: {session.settings.file or 'no table [tool.circuitcheck] was found'}"))
        settings = session.settings
        whole = 0 if settings.shard else len(session.cases)  # what a part does not use, another may
        for line in unused_limits(settings.limits, settings.metric, entries, whole) if whole else ():
            say(terminal, plain_lines(line), yellow=True)
        if session.document and session.document["compare"]:
            from circuitcheck.report.text import render_comparison

            say(terminal, "\n" + render_comparison(session.document["compare"]))
        if not any(entry["criteria"] or entry["verdict"] == "FAIL" for entry in entries):
            say(terminal, NOTHING_TO_COMPARE, red=True)
    _show_execution(session, terminal)
    for line, is_good in session.written:
        say(terminal, plain_lines(line), red=not is_good)
    for line in session.commands:  # in columns of their own: a workflow reads whole lines
        command(terminal, line)


def _write(session: GateSession, code: int | pytest.ExitCode) -> Outcome:
    """What became of the run, which is left in the session with the report and what to say of its files."""
    from circuitcheck.plugin.files import failed, run_document, workflow_commands, write_files
    from circuitcheck.report.rows import outcome

    settings, did_fail = session.settings, code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    document = run_document(
        settings, session.entries(), len(session.cases), interrupted=code in STOPPED, failed=did_fail
    )
    if session.workers:
        document["workers"] = session.workers
    session.written += write_compared_part(session, document) if settings.shard else write_files(settings, document)
    session.commands += workflow_commands(settings, document)
    session.document = document if all(is_good for _, is_good in session.written) else failed(document)
    return outcome(session.document)


def last_line(session: GateSession, code: int | pytest.ExitCode) -> tuple[str, str]:
    """The run in one line, and its colour: what a person reads last. PASS and green only where the exit code is 0.

    Args:
        session: the run's.
        code: what pytest exits with after everything.
    """
    if session.document is None:
        return "circuit gate: NONE (the run ended before its report was made)", "red"
    (word, line), shard = verdict_line(session.document, code), session.settings.shard
    more = "" if shard is None else f"; shard {shard}, merge all: python -m circuitcheck.merge OUT SHARD..."
    colour = {"PASS": "green", "INCONCLUSIVE": "yellow", "INCOMPLETE": "yellow", "INTERRUPTED": "yellow"}
    return line + more, colour.get(word, "red")


def verdict_line(document: dict[str, Any], code: int | pytest.ExitCode) -> tuple[str, str]:
    """A report's verdict in a word and in one line; PASS only where the exit code is 0."""
    from circuitcheck.plugin.files import failed
    from circuitcheck.report.rows import outcome

    found = outcome(document if code == pytest.ExitCode.OK else failed(document))
    way_out = ""
    if code == INCOMPLETE:
        way_out = f": exit code {INCOMPLETE} in CI; --circuit-allow-incomplete says that a part is enough"
    return found.word, f"circuit gate: {found.word} ({found.listed}){way_out}"


def unused_limits(limits: dict[str, Any], metric: str, entries: Sequence[Entry], expected: int) -> list[str]:
    """Limits that nothing in a complete run was held against: of other precisions, misspelt tasks or other metrics."""
    from circuitcheck.verdict.criteria import criteria_for
    from circuitcheck.verdict.limits import BROADER, SAME_BITS

    precisions = {entry["precision"] for entry in entries}
    precisions |= {SAME_BITS.get(name, name) for name in precisions}
    precisions |= {BROADER.get(name, name) for name in precisions}
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
    found = [_named(value) if isinstance(value, dict) else [name] for name, value in limits.items() if name != "looser"]
    return [name for names in found for name in names]
