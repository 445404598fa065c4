"""Everything that the plugin says to people: nothing else in it writes to a terminal or fails a test."""

from __future__ import annotations

from typing import NoReturn

import pytest

from circuitcheck.core.people import plain_lines, visible


def say(terminal: pytest.TerminalReporter, text: str, **markup: bool) -> None:
    """Writes lines to the terminal."""
    terminal.write_line(visible(text), **markup)


def command(terminal: pytest.TerminalReporter, line: str) -> None:
    """Writes a workflow command, which is to be obeyed; strangers' words in it were escaped when it was made."""
    terminal.write_line(line)


def fail(text: str) -> NoReturn:
    """Fails a test, without a traceback."""
    __tracebackhide__ = True
    pytest.fail(plain_lines(text), pytrace=False)


def skip(text: str) -> NoReturn:
    """Skips a test."""
    __tracebackhide__ = True
    pytest.skip(plain_lines(text))


def refusal(error: object) -> pytest.UsageError:
    """What pytest is told of settings that cannot be used."""
    return pytest.UsageError(plain_lines(f"circuitcheck: {error}"))
