"""The pytest hooks. Nothing heavy is imported here: every pytest run on the machine loads this module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from circuitcheck.errors import ConfigurationError
from circuitcheck.plugin.options import add_options

if TYPE_CHECKING:
    from circuitcheck.plugin.check import CircuitCase
    from circuitcheck.plugin.session import GateSession

FIXTURE = "circuit"
SESSION: pytest.StashKey[GateSession] = pytest.StashKey()
WORKER_STORE = "circuitcheck_store"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options."""
    add_options(parser)


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
        from circuitcheck.plugin.progress import TerminalProgress
        from circuitcheck.plugin.session import GateSession
        from circuitcheck.plugin.settings import read_settings
        from circuitcheck.plugin.store import Store

        try:
            settings = read_settings(config)
        except ConfigurationError as error:
            raise pytest.UsageError(f"circuitcheck: {error}") from error
        shared = getattr(config, "workerinput", {}).get(WORKER_STORE)
        store = Store(Path(shared) if shared else None)
        config.stash[SESSION] = GateSession(settings, store, TerminalProgress(config))
        config.add_cleanup(config.stash[SESSION].close)
    return config.stash[SESSION]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each candidate and task."""
    if FIXTURE in metafunc.fixturenames:
        cases = gate_session(metafunc.config).cases
        metafunc.parametrize(FIXTURE, cases, ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def circuit(request: pytest.FixtureRequest) -> CircuitCase:
    """One candidate on one task; see `circuitcheck.suite`."""
    from circuitcheck.plugin.check import CircuitCase

    return CircuitCase(gate_session(request.config), request.param)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Under xdist every worker is told where the controller keeps the run's results."""
    node.workerinput[WORKER_STORE] = str(gate_session(node.config).store_directory)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --circuit-report the verdicts decide: nothing compared, or anything but PASS, is never exit code 0."""
    config = session.config
    if SESSION in config.stash and not hasattr(config, "workerinput") and not config.option.collectonly:
        from circuitcheck.plugin.summary import exit_code

        session.exitstatus = exit_code(gate_session(config), session.exitstatus)


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Prints the tables, and writes the report."""
    yield
    config = terminalreporter.config
    if SESSION in config.stash and not config.option.collectonly:
        from circuitcheck.plugin.summary import show

        show(gate_session(config), terminalreporter)
