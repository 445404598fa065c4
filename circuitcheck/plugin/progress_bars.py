"""A progress bar on a terminal, and nothing in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from circuitcheck.core.people import plain
from circuitcheck.core.progress import Advance, silent

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
        if reporter is None or not reporter.isatty:
            yield silent
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
