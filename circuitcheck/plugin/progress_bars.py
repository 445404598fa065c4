"""A progress bar on a terminal, and in a log a line now and then of what takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from circuitcheck.core.people import plain
from circuitcheck.core.progress import Advance, silent
from circuitcheck.plugin.say import say

EVERY = 60.0
"""Seconds of one piece of work after which a log hears of it, and hears again."""

Progress = Callable[[str], AbstractContextManager[Advance]]
"""Takes a description, and shows a bar of that name as long as its context lasts; the context gives what moves it."""


class TerminalProgress:
    """Shows one bar at a time on the terminal that pytest writes to."""

    def __init__(self, config: pytest.Config) -> None:
        self._plugins = config.pluginmanager

    @contextmanager
    def __call__(self, description: str) -> Iterator[Advance]:
        """A bar called `description`; yields what moves it by a number of (head, prompt) rows."""
        # Looked up late: options are read before pytest makes its reporter, and a worker never has one.
        reporter: Any = self._plugins.get_plugin("terminalreporter")
        # The reporter's own answer: while output is captured, its stream is no terminal.
        if reporter is None:
            yield silent
            return
        if not reporter.isatty:
            yield _told_now_and_then(reporter, description)
            return
        from tqdm import tqdm

        stream = reporter._tw._file
        capture: Any = self._plugins.get_plugin("capturemanager")
        # Captured output goes to a file, so the bar needs the terminal for itself.
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            bar: Any = tqdm(desc=plain(description), unit=" rows", file=stream, leave=False, dynamic_ncols=True)
            try:
                yield bar.update
            finally:
                bar.close()


def shows_nothing(_: str) -> AbstractContextManager[Advance]:
    """For processes that nobody watches."""
    return nullcontext(silent)


def _told_now_and_then(reporter: Any, description: str) -> Advance:
    start = said = time.monotonic()
    done = 0

    def advance(rows: int) -> None:
        nonlocal said, done
        done += rows
        now = time.monotonic()
        if now - said >= EVERY:
            said = now
            reporter.ensure_newline()
            say(reporter, plain(f"{description}: {done:,} rows after {now - start:.0f} s"))

    return advance
