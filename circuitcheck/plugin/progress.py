"""A progress bar on a terminal, and nothing in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from circuitcheck.sweep.progress import Advance


class TerminalProgress:
    """Shows one bar at a time on the terminal that pytest writes to."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture: Any = config.pluginmanager.get_plugin("capturemanager")
        reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self._stream = reporter._tw._file if reporter is not None else None
        is_terminal = bool(getattr(self._stream, "isatty", lambda: False)())
        self._shown = is_terminal and not hasattr(config, "workerinput")

    @contextmanager
    def __call__(self, description: str) -> Iterator[Advance]:
        """A bar called `description`; yields what moves it by a number of (head, prompt) rows."""
        if not self._shown:
            yield _nothing
            return
        from tqdm import tqdm

        # Captured output goes to a file, so the bar needs the terminal for itself.
        with self._capture.global_and_fixture_disabled() if self._capture else _no_capture():
            bar = tqdm(desc=description, unit=" rows", file=self._stream, leave=False, dynamic_ncols=True)
            try:
                yield _moves(bar)
            finally:
                bar.close()


def _moves(bar: Any) -> Callable[[int], None]:
    def advance(rows: int) -> None:
        bar.update(rows)

    return advance


def _nothing(_: int) -> None:
    """No bar to move."""


@contextmanager
def _no_capture() -> Iterator[None]:
    yield
