"""The pytest hooks. Nothing heavy is imported here: every pytest run on the machine loads this module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.people import plain_lines
from circuitcheck.plugin.say import refusal, say
from circuitcheck.plugin.settings import OPTIONS

if TYPE_CHECKING:
    from circuitcheck.plugin.circuit_case import CircuitCase
    from circuitcheck.plugin.session import GateSession
    from circuitcheck.plugin.store import Store

FIXTURE = "circuitcheck_case"
SESSION: pytest.StashKey[GateSession] = pytest.StashKey()
STORE: pytest.StashKey[Store] = pytest.StashKey()
ENDED: pytest.StashKey[pytest.Session] = pytest.StashKey()
WORKER_STORE = "circuitcheck_store"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options in a group of their own."""
    group = parser.getgroup("circuitcheck", "circuit preservation (circuitcheck)")
    for option in OPTIONS:
        option.add_to(group)


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Removes the last report before anything, be it another plugin's option, can refuse this run."""
    given = early_config.known_args_namespace
    # One to compare with may be the same file; it is removed when it has been read.
    if given.circuit_report_dir and not given.circuit_compare:
        remove_old_reports(Path(given.circuit_report_dir), given.circuit_shard)


def remove_old_reports(directory: Path | None, shard: str | None) -> None:
    """Removes what an earlier run left in the directory of this run's reports, if it has one.

    Args:
        directory: of the reports.
        shard: which part this run is, as it was given; other parts may be in the directory, too, and stay.

    Raises:
        pytest.UsageError: it cannot be removed.
    """
    from circuitcheck.plugin.files import REPORTS, remove_reports
    from circuitcheck.plugin.shards import parse_shard

    try:
        if directory is not None:
            remove_reports(directory, REPORTS if shard is None else [f"{parse_shard(shard).name}.json"])
    except ValueError:
        return  # what there is to say of it is said when all settings are read
    except ConfigurationError as error:
        raise refusal(error) from error


def pytest_configure(config: pytest.Config) -> None:
    """Refuses unusable options before anything is collected."""
    if any(value not in (None, False) for name, value in vars(config.option).items() if name.startswith("circuit_")):
        gate_session(config)


def gate_session(config: pytest.Config) -> GateSession:
    """The run's session, made when it is first needed.

    Raises:
        pytest.UsageError: the settings cannot be used.
    """
    if SESSION not in config.stash:
        from circuitcheck.plugin.configuration import read_settings, report_dir
        from circuitcheck.plugin.progress_bars import TerminalProgress
        from circuitcheck.plugin.session import GateSession
        from circuitcheck.plugin.settings_checks import check
        from circuitcheck.plugin.side_by_side import wait_passively

        wait_passively()
        try:
            settings = read_settings(config)
            check(settings, config)
        except ConfigurationError as error:
            raise refusal(error) from error
        finally:
            remove_old_reports(report_dir(config), config.getoption("circuit_shard", default=None))
        processes = getattr(config, "workerinput", {}).get("workercount", 1)
        config.stash[SESSION] = GateSession(settings, run_store(config), TerminalProgress(config), processes)
        config.add_cleanup(config.stash[SESSION].close)
    return config.stash[SESSION]


def run_store(config: pytest.Config) -> Store:
    """Where the run's results lie; a worker uses the controller's."""
    if STORE not in config.stash:
        from circuitcheck.plugin.store import Store

        shared = getattr(config, "workerinput", {}).get(WORKER_STORE)
        config.stash[STORE] = Store(Path(shared) if shared else None)
        config.add_cleanup(config.stash[STORE].close)
    return config.stash[STORE]


def decides(config: pytest.Config) -> bool:
    """Whether this process ends a run that the gate is part of: asked for by an option, or collected by any process."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return False
    return SESSION in config.stash or (STORE in config.stash and config.stash[STORE].was_collected)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each candidate, task and kind of unit."""
    if FIXTURE in metafunc.fixturenames:
        try:
            cases = gate_session(metafunc.config).cases
        except pytest.UsageError as error:  # only [tool.circuitcheck] can be at fault here
            raise pytest.Collector.CollectError(plain_lines(str(error))) from error
        run_store(metafunc.config).mark_collected()
        metafunc.parametrize(FIXTURE, cases, ids=str, indirect=True, scope="session")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tells the run's session which cases its tests ask for, and whether somebody steps through them."""
    config = session.config
    if SESSION in config.stash:
        gate, calls = config.stash[SESSION], [getattr(item, "callspec", None) for item in session.items]
        chosen = [call.params[FIXTURE] for call in calls if call is not None and FIXTURE in call.params]
        is_watched = config.getoption("usepdb", False) or config.getoption("trace", False)
        gate.select(chosen, may_spread=not is_watched)


@pytest.fixture(scope="session")
def circuitcheck_case(request: pytest.FixtureRequest) -> CircuitCase:
    """One candidate on one task and kind of unit; see `circuitcheck.suite`."""
    from circuitcheck.plugin.circuit_case import CircuitCase

    return CircuitCase(gate_session(request.config), request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Hands what a test checked to its report, from where JUnit files and xdist's controller take it."""
    case = getattr(item, "funcargs", {}).get(FIXTURE)
    if case is not None and hasattr(case, "take_properties"):
        item.user_properties.extend(case.take_properties())
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Under xdist every worker is told where the controller keeps the run's results."""
    node.workerinput[WORKER_STORE] = str(run_store(node.config).directory)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --circuit-report the verdicts decide: nothing compared, or anything but PASS, is never exit code 0."""
    if decides(session.config):
        from circuitcheck.plugin.closing import finish

        was_cut = bool(session.shouldfail or session.shouldstop)
        session.exitstatus = finish(gate_session(session.config), session.exitstatus, was_cut=was_cut)
        session.config.stash[ENDED] = session


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Prints the tables."""
    yield
    if decides(terminalreporter.config):
        from circuitcheck.plugin.closing import show

        show(gate_session(terminalreporter.config), terminalreporter)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line that a person reads is the verdict of the run; pytest's own count of tests stands above it."""
    terminal: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and ENDED in config.stash and config.stash[SESSION].settings.is_reported:
        from circuitcheck.plugin.closing import last_line

        line, colour = last_line(config.stash[SESSION], config.stash[ENDED].exitstatus)
        say(terminal, line, bold=True, **{colour: True})
