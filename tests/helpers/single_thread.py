"""Small models on few prompts: a second thread costs more than it gives, much more on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from circuitcheck.runtimes.pytorch.threads import computing_threads


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One computing thread in every test of the folder whose conftest.py imports this."""
    with computing_threads(1):
        yield
